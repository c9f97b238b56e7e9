"""Writes `golden/`: tiny models with the outputs transformers gives them.

Needs torch. Run it again only to add a family or when a golden file has to
change for a reason you can name:

    python tests/models/make_golden.py
"""

import pathlib
import shutil

import numpy as np
import torch
import transformers

GOLDEN = pathlib.Path(__file__).parent / 'golden'

# Sizes differ in every field that the parser reads, and all weights are drawn
# wide, so that no swap of two fields or tensors can go unnoticed.
CONFIGS = {
  'bert_three_layers': transformers.BertConfig(
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    intermediate_size=40,
    vocab_size=60,
    max_position_embeddings=16,
    num_labels=3,
  ),
  'bert_one_layer': transformers.BertConfig(
    num_hidden_layers=1,
    hidden_size=32,
    num_attention_heads=2,
    intermediate_size=20,
    vocab_size=45,
    max_position_embeddings=12,
    type_vocab_size=1,
    layer_norm_eps=1e-3,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.2,
    initializer_range=0.05,
    num_labels=2,
  ),
}


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
  """Redraws every weight with a spread at which each of them matters."""
  with torch.no_grad():
    for name, weight in model.named_parameters():
      noise = torch.randn(weight.shape, generator=generator)
      center = 1.0 if name.endswith('LayerNorm.weight') else 0.0
      weight.copy_(center + 0.3 * noise)


def main() -> None:
  for name, config in CONFIGS.items():
    generator = torch.Generator().manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.eval()
    randomise(model, generator)
    length = torch.tensor([config.max_position_embeddings, 5, 1])
    shape = (len(length), config.max_position_embeddings)
    ids = torch.randint(config.vocab_size, shape, generator=generator)
    mask = torch.arange(shape[1])[None] < length[:, None]
    with torch.no_grad():
      output = model.base_model(
        input_ids=ids, attention_mask=mask.long(), output_hidden_states=True
      )
      # The head on raw [CLS]: transformers' own sits behind a pooler.
      logits = model.classifier(output.last_hidden_state[:, 0])
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    np.savez(
      folder / 'outputs.npz',
      ids=ids.numpy().astype(np.int32),
      length=length.numpy().astype(np.int32),
      logits=logits.numpy(),
      hidden=torch.stack(output.hidden_states).numpy(),
    )


if __name__ == '__main__':
  main()
