"""Writes `golden/`: tiny models with the outputs transformers gives them.

Needs torch. Run it again only to add a family or when a golden file has to
change for a reason you can name:

    python tests/models/make_golden.py [NAME ...]
"""

import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers

GOLDEN = pathlib.Path(__file__).parent / 'golden'

# Sizes differ in every field that the parser reads, and all weights are drawn
# wide, so that no swap of two fields or tensors can go unnoticed.
CONFIGS = {
  'bert_three_layers': transformers.BertConfig(
    architectures=['BertForSequenceClassification'],
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    intermediate_size=40,
    vocab_size=60,
    max_position_embeddings=16,
    num_labels=3,
  ),
  'bert_one_layer': transformers.BertConfig(
    architectures=['BertForTokenClassification'],
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
  'distilbert_three_layers': transformers.DistilBertConfig(
    architectures=['DistilBertForSequenceClassification'],
    n_layers=3,
    dim=24,
    n_heads=4,
    hidden_dim=40,
    vocab_size=60,
    max_position_embeddings=16,
    num_labels=3,
  ),
  'roberta_three_layers': transformers.RobertaConfig(
    architectures=['RobertaForSequenceClassification'],
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    intermediate_size=40,
    vocab_size=60,
    max_position_embeddings=18,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    num_labels=3,
  ),
  'opt_three_layers': transformers.OPTConfig(
    architectures=['OPTForSequenceClassification'],
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    ffn_dim=40,
    vocab_size=60,
    max_position_embeddings=16,
    word_embed_proj_dim=24,
    num_labels=3,
  ),
  # As OPT-350m is built.
  'opt_post_norm': transformers.OPTConfig(
    architectures=['OPTForSequenceClassification'],
    num_hidden_layers=2,
    hidden_size=24,
    num_attention_heads=2,
    ffn_dim=20,
    vocab_size=45,
    max_position_embeddings=12,
    word_embed_proj_dim=16,
    do_layer_norm_before=False,
    init_std=0.05,
    num_labels=2,
  ),
  'gpt_neo_four_layers': transformers.GPTNeoConfig(
    architectures=['GPTNeoForSequenceClassification'],
    num_layers=4,
    attention_types=[[['global', 'local'], 2]],
    hidden_size=16,
    num_heads=4,
    intermediate_size=40,
    window_size=3,
    vocab_size=60,
    max_position_embeddings=16,
    bos_token_id=0,
    eos_token_id=0,
    pad_token_id=0,
    num_labels=3,
  ),
  'gpt_neox_three_layers': transformers.GPTNeoXConfig(
    architectures=['GPTNeoXForSequenceClassification'],
    num_hidden_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=40,
    vocab_size=60,
    max_position_embeddings=16,
    pad_token_id=0,
    num_labels=3,
  ),
  'gpt_neox_serial': transformers.GPTNeoXConfig(
    architectures=['GPTNeoXForTokenClassification'],
    num_hidden_layers=2,
    hidden_size=24,
    num_attention_heads=2,
    intermediate_size=20,
    vocab_size=45,
    max_position_embeddings=12,
    rope_parameters={
      'rope_type': 'default',
      'rope_theta': 500.0,
      'partial_rotary_factor': 0.5,
    },
    use_parallel_residual=False,
    layer_norm_eps=1e-3,
    initializer_range=0.05,
    pad_token_id=0,
    num_labels=2,
  ),
  'llama_three_layers': transformers.LlamaConfig(
    architectures=['LlamaForSequenceClassification'],
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    vocab_size=60,
    max_position_embeddings=16,
    pad_token_id=0,
    num_labels=3,
  ),
  'llama_biases': transformers.LlamaConfig(
    architectures=['LlamaForTokenClassification'],
    num_hidden_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=1,
    intermediate_size=20,
    vocab_size=45,
    max_position_embeddings=12,
    rms_norm_eps=1e-3,
    rope_parameters={'rope_type': 'default', 'rope_theta': 500.0},
    attention_bias=True,
    mlp_bias=True,
    initializer_range=0.05,
    pad_token_id=0,
    num_labels=2,
  ),
}


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
  """Redraws every weight with a spread at which each of them matters."""
  with torch.no_grad():
    for module in model.modules():
      for name, weight in module.named_parameters(recurse=False):
        is_scale = 'Norm' in type(module).__name__ and name == 'weight'
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(float(is_scale) + 0.3 * noise)


def main() -> None:
  for name in sys.argv[1:] or CONFIGS:
    config = CONFIGS[name]
    generator = torch.Generator().manual_seed(1)
    model = getattr(transformers, config.architectures[0])(config)
    model.eval()
    randomise(model, generator)
    longest = config.max_position_embeddings
    if config.model_type == 'roberta':
      longest -= config.pad_token_id + 1
    length = torch.tensor([longest, 5, 1])
    # Never padding: two classes find an example's end, and RoBERTa its
    # positions, by looking for the padding's id.
    ids = torch.randint(2, config.vocab_size, (3, longest), generator=generator)
    mask = torch.arange(longest)[None] < length[:, None]
    ids = torch.where(mask, ids, config.pad_token_id)
    inputs = {'input_ids': ids, 'attention_mask': mask.long()}
    with torch.no_grad():
      states = model.base_model(**inputs, output_hidden_states=True)
      logits = model(**inputs).logits
    if logits.ndim == 3:  # It classifies every token.
      at = 0 if config.model_type in ('bert', 'roberta', 'distilbert') else -1
      logits = logits[torch.arange(3), at % length]
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    np.savez(
      folder / 'outputs.npz',
      ids=ids.numpy().astype(np.int32),
      length=length.numpy().astype(np.int32),
      logits=logits.numpy(),
      hidden=torch.stack(states.hidden_states[:-1]).numpy(),
      # Of another width where a projection comes after the blocks.
      last=states.last_hidden_state.numpy(),
    )


if __name__ == '__main__':
  main()
