"""`config.json` of published checkpoints, and what they describe."""

from memloc_jax.models import bert, distilbert, gpt_neo, gpt_neox, opt, roberta

_BERT = {
  'attention_probs_dropout_prob': 0.1,
  'hidden_act': 'gelu',
  'hidden_dropout_prob': 0.1,
  'hidden_size': 768,
  'initializer_range': 0.02,
  'intermediate_size': 3072,
  'num_attention_heads': 12,
  'num_hidden_layers': 12,
}
_OPT = {
  'activation_dropout': 0.0,
  'activation_function': 'relu',
  'architectures': ['OPTForCausalLM'],
  'attention_dropout': 0.0,
  'bos_token_id': 2,
  'dropout': 0.1,
  'eos_token_id': 2,
  'init_std': 0.02,
  'layerdrop': 0.0,
  'max_position_embeddings': 2048,
  'model_type': 'opt',
  'pad_token_id': 1,
  'prefix': '</s>',
  'torch_dtype': 'float16',
  'use_cache': True,
  'vocab_size': 50272,
}

CONFIGS = {
  'google-bert/bert-base-cased': _BERT
  | {
    'architectures': ['BertForMaskedLM'],
    'gradient_checkpointing': False,
    'layer_norm_eps': 1e-12,
    'max_position_embeddings': 512,
    'model_type': 'bert',
    'pad_token_id': 0,
    'position_embedding_type': 'absolute',
    'transformers_version': '4.6.0.dev0',
    'type_vocab_size': 2,
    'use_cache': True,
    'vocab_size': 28996,
  },
  'FacebookAI/roberta-base': _BERT
  | {
    'architectures': ['RobertaForMaskedLM'],
    'bos_token_id': 0,
    'eos_token_id': 2,
    'layer_norm_eps': 1e-05,
    'max_position_embeddings': 514,
    'model_type': 'roberta',
    'pad_token_id': 1,
    'type_vocab_size': 1,
    'vocab_size': 50265,
  },
  'distilbert/distilbert-base-uncased': {
    'activation': 'gelu',
    'architectures': ['DistilBertForMaskedLM'],
    'attention_dropout': 0.1,
    'dim': 768,
    'dropout': 0.1,
    'hidden_dim': 3072,
    'initializer_range': 0.02,
    'max_position_embeddings': 512,
    'model_type': 'distilbert',
    'n_heads': 12,
    'n_layers': 6,
    'pad_token_id': 0,
    'qa_dropout': 0.1,
    'seq_classif_dropout': 0.2,
    'sinusoidal_pos_embds': False,
    'tie_weights_': True,
    'transformers_version': '4.10.0.dev0',
    'vocab_size': 30522,
  },
  'facebook/opt-125m': _OPT
  | {
    '_name_or_path': 'facebook/opt-125m',
    '_remove_final_layer_norm': False,
    'do_layer_norm_before': True,
    'ffn_dim': 3072,
    'hidden_size': 768,
    'num_attention_heads': 12,
    'num_hidden_layers': 12,
    'transformers_version': '4.21.0.dev0',
    'word_embed_proj_dim': 768,
  },
  'facebook/opt-350m': _OPT
  | {
    '_name_or_path': 'opt-350m',
    'do_layer_norm_before': False,
    'ffn_dim': 4096,
    'hidden_size': 1024,
    'num_attention_heads': 16,
    'num_hidden_layers': 24,
    'transformers_version': '4.20.0.dev0',
    'word_embed_proj_dim': 512,
  },
  'facebook/opt-1.3b': _OPT
  | {
    'do_layer_norm_before': True,
    'ffn_dim': 8192,
    'hidden_size': 2048,
    'num_attention_heads': 32,
    'num_hidden_layers': 24,
    'transformers_version': '4.21.0.dev0',
    'word_embed_proj_dim': 2048,
  },
  'EleutherAI/gpt-neo-125m': {
    'activation_function': 'gelu_new',
    'architectures': ['GPTNeoForCausalLM'],
    'attention_dropout': 0,
    'attention_layers': ['global', 'local'] * 6,
    'attention_types': [[['global', 'local'], 6]],
    'bos_token_id': 50256,
    'embed_dropout': 0,
    'eos_token_id': 50256,
    'gradient_checkpointing': False,
    'hidden_size': 768,
    'initializer_range': 0.02,
    'intermediate_size': None,
    'layer_norm_epsilon': 1e-05,
    'max_position_embeddings': 2048,
    'model_type': 'gpt_neo',
    'num_heads': 12,
    'num_layers': 12,
    'resid_dropout': 0,
    'summary_activation': None,
    'summary_first_dropout': 0.1,
    'summary_proj_to_labels': True,
    'summary_type': 'cls_index',
    'summary_use_proj': True,
    'torch_dtype': 'float32',
    'transformers_version': '4.10.0.dev0',
    'use_cache': True,
    'vocab_size': 50257,
    'window_size': 256,
  },
  'EleutherAI/pythia-160m-deduped': {
    'architectures': ['GPTNeoXForCausalLM'],
    'bos_token_id': 0,
    'eos_token_id': 0,
    'hidden_act': 'gelu',
    'hidden_size': 768,
    'initializer_range': 0.02,
    'intermediate_size': 3072,
    'layer_norm_eps': 1e-05,
    'max_position_embeddings': 2048,
    'model_type': 'gpt_neox',
    'num_attention_heads': 12,
    'num_hidden_layers': 12,
    'rotary_emb_base': 10000,
    'rotary_pct': 0.25,
    'tie_word_embeddings': False,
    'torch_dtype': 'float16',
    'transformers_version': '4.24.0',
    'use_cache': True,
    'use_parallel_residual': True,
    'vocab_size': 50304,
  },
}  # fmt: skip

_BASE = {'num_layers': 12, 'width': 768, 'num_heads': 12, 'hidden': 3072}
_LARGER = {'num_layers': 24, 'max_positions': 2048, 'vocab_size': 50272}

MODELS = {
  'google-bert/bert-base-cased': bert.Bert(
    **_BASE, vocab_size=28996, max_positions=512
  ),
  'FacebookAI/roberta-base': roberta.Roberta(
    **_BASE,
    vocab_size=50265,
    max_positions=514,
    norm_epsilon=1e-05,
    num_segments=1,
  ),
  'distilbert/distilbert-base-uncased': distilbert.DistilBert(
    **_BASE | {'num_layers': 6}, vocab_size=30522, max_positions=512
  ),
  'facebook/opt-125m': opt.Opt(
    **_BASE, vocab_size=50272, max_positions=2048, token_width=768
  ),
  'facebook/opt-350m': opt.Opt(
    **_LARGER,
    width=1024,
    num_heads=16,
    hidden=4096,
    token_width=512,
    pre_norm=False,
  ),
  'facebook/opt-1.3b': opt.Opt(
    **_LARGER, width=2048, num_heads=32, hidden=8192, token_width=2048
  ),
  'EleutherAI/gpt-neo-125m': gpt_neo.GptNeo(
    **_BASE,
    vocab_size=50257,
    max_positions=2048,
    attention=('global', 'local') * 6,
    window=256,
  ),
  'EleutherAI/pythia-160m-deduped': gpt_neox.GptNeoX(
    **_BASE, vocab_size=50304, max_positions=2048
  ),
}
