"""Which sequences a language model memorises: documents to estimates."""
