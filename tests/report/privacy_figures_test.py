"""The figure of attacks shows their curves from axis to axis."""

import numpy as np
import pandas as pd
from absl.testing import absltest

from memloc_jax.report import privacy_figures


class CurvesTest(absltest.TestCase):
  def test_curves_reach_the_axes(self):
    rows = pd.DataFrame(
      [
        # One that finds members before its first false alarm, and one that
        # has false alarms before it finds any.
        *(('LiRA', *x) for x in ((0, 0), (0, 0.2), (0.1, 0.5), (1, 1))),
        *(('RMIA', *x) for x in ((0, 0), (0.01, 0), (0.4, 0.6))),
      ],
      columns=['attack', 'fpr', 'tpr'],
    )
    summary = pd.DataFrame(
      {'attack': ['LiRA', 'RMIA'], 'scope': 'pooled', 'auc': [0.8, 0.6]}
    )
    figure = privacy_figures.curves(rows, summary)
    (axes,) = figure.axes
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    lines = {line.get_gid(): line.get_xydata() for line in axes.lines}
    for name in ('LiRA', 'RMIA'):
      points = lines[name]
      np.testing.assert_allclose(points[-1], [1, 1])
      self.assertTrue(
        np.isclose(points[0], [left, bottom]).any(), f'{name} hangs in the air'
      )
      self.assertTrue((np.diff(points, axis=0) >= 0).all())
    # Where the straight line between two points enters, not in the corner.
    np.testing.assert_allclose(lines['RMIA'][0], [left, 0.6 * 0.09 / 0.39])
    # What is found without a false alarm is on the left axis.
    self.assertIn([left, 0.2], lines['LiRA'].round(9).tolist())
    self.assertEmpty([axes.get_legend()] if axes.get_legend() else [])
    self.assertLen(figure.legends, 1)


if __name__ == '__main__':
  absltest.main()
