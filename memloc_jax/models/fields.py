"""What the fields of `config.json` mean for the computation.

`transformers` writes some hundred fields beside the sizes of a model. Those of
`PretrainedConfig` in versions 2 to 5 were gone through once and are sorted
here: `HARMLESS` do not change what the encoder computes, `CHANGES` do. Fields
of a single family are in its file. A field that is in neither place passes with
the value that `transformers` gives it where it is left out.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

HARMLESS = frozenset({
  # Where the checkpoint comes from, and what wrote it.
  '_commit_hash', '_from_model_config', '_name_or_path', 'architectures',
  'custom_pipelines', 'model_type', 'name_or_path', 'transformers.js_config',
  'transformers_version', 'unsloth_fixed', 'unsloth_version',
  # Classes and loss, which matter to given classifiers only; see
  # `checkpoint.class_names`.
  '_num_labels', 'finetuning_task', 'id2label', 'label2id', 'num_labels',
  'problem_type', 'sbert_ce_default_activation_function',
  'sentence_transformers', 'task_specific_params', 'tf_legacy_loss',
  # The tokenizer, which is read from its own files.
  'bos_token_id', 'cls_token_id', 'decoder_start_token_id', 'eos_token_id',
  'eos_token_ids', 'mask_token_id', 'pad_token_id', 'prefix', 'sep_token_id',
  'tokenizer_class', 'unk_token_id',
  # What is returned beside the result.
  '_output_attentions', 'output_attentions', 'output_hidden_states',
  'output_past', 'return_dict', 'tie_last_hidden_states', 'use_cache',
  'use_return_dict',
  # How and where the same function is computed or stored.
  '_attn_implementation', '_attn_implementation_autoset',
  '_attn_implementation_internal', '_experts_implementation',
  '_flash_attn_2_enabled', '_pre_quantization_dtype', 'attn_implementation',
  'chunk_size_feed_forward', 'distributed_config', 'dtype',
  'experts_implementation', 'gradient_checkpointing', 'torch_dtype',
  'torchscript', 'use_bfloat16', 'xla_device',
  # Parts that the encoder lacks: a language model's head, a decoder.
  'cross_attention_hidden_size', 'tie_encoder_decoder', 'tie_word_embeddings',
  # Text generation.
  'assistant_confidence_threshold', 'assistant_lookbehind', 'bad_words_ids',
  'begin_suppress_tokens', 'diversity_penalty', 'do_sample', 'early_stopping',
  'encoder_no_repeat_ngram_size', 'encoder_repetition_penalty',
  'epsilon_cutoff', 'eta_cutoff', 'exponential_decay_length_penalty',
  'forced_bos_token_id', 'forced_eos_token_id', 'length_penalty', 'max_length',
  'max_new_tokens', 'min_length', 'min_new_tokens', 'no_repeat_ngram_size',
  'num_assistant_tokens', 'num_assistant_tokens_schedule', 'num_beam_groups',
  'num_beams', 'num_return_sequences', 'output_scores', 'penalty_alpha',
  'remove_invalid_values', 'renormalize_logits', 'repetition_penalty',
  'return_dict_in_generate', 'suppress_tokens', 'target_lookbehind',
  'temperature', 'top_k', 'top_p', 'typical_p',
})  # fmt: skip

# Field -> the values under which every family computes what is meant. {} is
# any value that holds nothing; a family can say otherwise in `fixed`.
CHANGES: Mapping[str, tuple[Any, ...]] = {
  'adapter_fusion': ({},),
  'adapters': ({},),
  'add_cross_attention': (False,),
  'auto_map': ({},),
  'compression_config': ({},),
  'is_decoder': (False,),
  'is_encoder_decoder': (False,),
  'partial_rotary_factor': ({},),
  'peft_config': ({},),
  'per_layer_config': ({},),
  'pruned_heads': ({},),
  'quantization_config': ({},),
  'rope_parameters': ({},),
  'rope_scaling': ({},),
  'rope_theta': ({},),
  'rotary_emb_base': ({},),
  'rotary_pct': ({},),
  'transformers_weights': ({},),
}

_ROTARY = 'positions are encoded by turning queries and keys'
_ADAPTED = 'blocks have further layers'
_QUANTISED = 'weights are stored quantised'
# What a field changes, after "with which"; also of families' own fields.
_EFFECTS = {
  '_remove_final_layer_norm': 'the last layer norm is left out',
  'activation': 'the MLP has another activation',
  'activation_dropout': 'training drops elements inside the MLP',
  'activation_function': 'the MLP has another activation',
  'adapter_fusion': _ADAPTED,
  'adapters': _ADAPTED,
  'add_cross_attention': 'blocks attend to another sequence',
  'attention_bias': 'attention has no biases',
  'attention_dropout': 'training drops attention weights',
  'auto_map': 'code of its own computes the model',
  'compression_config': _QUANTISED,
  'enable_bias': 'linear layers have no biases',
  'head_dim': 'heads are not `hidden_size / num_attention_heads` wide',
  'hidden_act': 'the MLP has another activation',
  'is_decoder': 'attention looks back only',
  'is_encoder_decoder': 'a decoder comes after the encoder',
  'layer_norm_elementwise_affine': 'layer norms have no parameters',
  'layerdrop': 'training drops whole blocks',
  'partial_rotary_factor': _ROTARY,
  'peft_config': _ADAPTED,
  'per_layer_config': 'blocks differ in their sizes',
  'position_embedding_type': 'attention depends on relative positions',
  'pruned_heads': 'attention heads are cut out of the stored matrices',
  'quantization_config': _QUANTISED,
  'rope_interleaved': 'positions turn neighbouring coordinates',
  'rope_parameters': _ROTARY,
  'rope_scaling': 'positions are turned at other wavelengths',
  'rope_theta': _ROTARY,
  'rope_type': 'positions are turned at other wavelengths',
  'rotary_emb_base': _ROTARY,
  'rotary_pct': _ROTARY,
  'transformers_weights': 'weights are in another file',
}


def refusal(
  config: Mapping[str, Any],
  own: Mapping[str, tuple[Any, ...]],
  known: frozenset[str],
) -> str | None:
  """Why a model cannot be computed as its fields say.

  Args:
    config: fields of `config.json` that are set.
    own: of the family, as `CHANGES`, before which it comes.
    known: fields of the family that are checked elsewhere, or harmless.

  Returns:
    What follows the file's name in a sentence, without the full stop; None if
    nothing is amiss.
  """
  for name, value in config.items():
    if name in own or (name in CHANGES and name not in known):
      values = own.get(name) or CHANGES[name]
      if not _is_among(value, values):
        return _explained(name, value, values)
  known = known | HARMLESS | own.keys() | CHANGES.keys()
  unknown = sorted(config.keys() - known)
  unknown = [n for n in unknown if not _is_default(config, n)]
  if unknown:
    return (
      f'sets {", ".join(unknown)}, which is not known here and may change the '
      'computation; delete from the file what does not'
    )
  return None


def _is_among(value: Any, values: tuple[Any, ...]) -> bool:
  return value in values or ({} in values and _is_empty(value))


def _is_empty(value: Any) -> bool:
  """Whether a list, an object or a text holds nothing, however nested."""
  if isinstance(value, dict):
    return all(map(_is_empty, value.values()))
  if isinstance(value, list | tuple):
    return all(map(_is_empty, value))
  return value is None or value == ''


def _explained(name: str, value: Any, values: tuple[Any, ...]) -> str:
  effect = f', with which {_EFFECTS[name]}' if name in _EFFECTS else ''
  wanted = ' or '.join('nothing' if v == {} else repr(v) for v in values)
  return f'sets {name} to {value!r}{effect}, but only {wanted} is implemented'


def _is_default(config: Mapping[str, Any], name: str) -> bool:
  """Whether `transformers` takes the same value where the field is left out."""
  defaults = _defaults(str(config.get('model_type')))
  if name not in defaults:
    return False
  value, default = config[name], defaults[name]
  # To Python, true is 1.
  return value == default and isinstance(value, bool) is isinstance(
    default, bool
  )


@functools.cache
def _defaults(model_type: str) -> dict[str, Any]:
  """All fields of a fresh configuration of `transformers`, {} without one."""
  # Imported here: it takes seconds, and files that hold nothing unknown do
  # without.
  import transformers

  if model_type not in transformers.CONFIG_MAPPING:
    return {}
  fresh = transformers.CONFIG_MAPPING[model_type]()
  return json.loads(fresh.to_json_string(use_diff=False))
