"""Ids of special tokens go with an exported model."""

import json
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint

GOLDEN = pathlib.Path(__file__).parent / 'golden'
IDS = {
  'bos_token_id': 5,
  'cls_token_id': 6,
  'eos_token_id': 7,
  'mask_token_id': 8,
  'pad_token_id': 9,
  'sep_token_id': 10,
}


class TokenIdsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    base = self.enterContext(tempfile.TemporaryDirectory())
    self.base = pathlib.Path(base)

  def exported(self, name, config=None):
    """The ids that an export has, of a source with this `config.json`."""
    source, target = self.base / 'source', self.base / 'target'
    source.mkdir()
    if config is not None:
      (source / 'config.json').write_text(config)
    model = checkpoint.load_model(GOLDEN / name)
    params = checkpoint.load_params(GOLDEN / name, model)
    del params['heads']
    checkpoint.export(target, model, params, source, ())
    self.assertEqual(checkpoint.load_model(target), model)
    written = json.loads((target / 'config.json').read_text())
    return {k: v for k, v in written.items() if k.endswith('_token_id')}

  @parameterized.parameters('bert_three_layers', 'opt_three_layers')
  def test_those_of_the_source(self, name):
    more = {'vocab_size': 3, 'unheard_of': 4}
    self.assertEqual(self.exported(name, json.dumps(IDS | more)), IDS)

  def test_those_that_are_not_set_are_left_out(self):
    config = json.dumps({'pad_token_id': 0, 'eos_token_id': None})
    found = self.exported('bert_three_layers', config)
    self.assertEqual(found, {'pad_token_id': 0})

  def test_robertas_padding_is_the_models(self):
    # Its positions are counted from there.
    found = self.exported('roberta_three_layers', json.dumps(IDS))
    self.assertEqual(found, IDS | {'pad_token_id': 1})

  @parameterized.parameters('gpt_neo_four_layers', 'gpt_neox_three_layers')
  def test_gpt_pads_with_its_end(self, name):
    # As published: without padding.
    config = json.dumps({'bos_token_id': 3, 'eos_token_id': 3})
    found = self.exported(name, config)
    ids = ('bos_token_id', 'eos_token_id', 'pad_token_id')
    self.assertEqual(found, dict.fromkeys(ids, 3))

  def test_bert_does_not(self):
    config = json.dumps({'bos_token_id': 3, 'eos_token_id': 3})
    found = self.exported('bert_three_layers', config)
    self.assertNotIn('pad_token_id', found)

  def test_none_without_a_config(self):
    self.assertEqual(self.exported('bert_three_layers'), {})

  def test_malformed_config(self):
    with self.assertRaisesRegex(InputError, 'source/config.json is not valid'):
      self.exported('bert_three_layers', '{"pad')
    self.assertFalse((self.base / 'target').exists())


if __name__ == '__main__':
  absltest.main()
