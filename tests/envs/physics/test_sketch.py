"""Pictures: to scale, and gauges that say what they are of."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.envs.physics import sketch


def test_a_sketch_is_to_scale():
    rods = jnp.array([[[-1.0, 0.5], [1.0, 0.5]]])
    things = jnp.array([[0.0, -0.5]])
    picture = np.asarray(
        sketch.draw(rods, things, jnp.zeros(2), scale=40.0, ground=True)
    )
    body = (picture == [0, 114, 178]).all(axis=2)
    thing = (picture == [213, 94, 0]).all(axis=2)
    # A bar of 80 x 6 pixels with round ends, and a disc, both of radius 3.
    assert abs(body.sum() - (80 * 6 + 9 * np.pi)) < 30
    assert abs(thing.sum() - 9 * np.pi) < 8
    assert np.argwhere(body).mean(axis=0) == pytest.approx([39.5, 79.5], abs=1)
    assert np.argwhere(thing).mean(axis=0) == pytest.approx([79.5, 79.5], abs=1)
    paper = (picture == picture[0, 0]).all(axis=2)
    assert paper[:60].sum() + body[:60].sum() == 60 * 160
    assert not paper[60:].any()


def test_gauges_grow_from_their_marks():
    paper = jnp.full((sketch.HEIGHT, sketch.WIDTH, 3), 244, jnp.uint8)
    values = jnp.array([1.0, -0.5, 0.0, 7.0])
    names = ("gravity", "mass", "gear", "friction")
    picture = np.asarray(sketch.gauges(paper, names, values))
    green = (picture == [0, 158, 115]).all(axis=2)
    length = [green[10 * i : 10 * i + 10].any(axis=0).sum() for i in range(5)]
    assert length[0] == length[3] == 2 * length[1]  # beyond the end is at the end
    assert length[2] == length[4] == 0
    left = [np.nonzero(green[10 * i : 10 * i + 10])[1].mean() for i in (0, 1)]
    assert left[1] < left[0]
    ink = (picture == [43, 48, 64]).all(axis=2)
    labels = [ink[12 * i : 12 * i + 10, :26] for i in range(3)]
    assert all(label.any() for label in labels)
    assert (labels[0] != labels[1]).any()
    # Nothing is drawn beside the gauges.
    assert not (picture != 244).any(axis=2)[:, 80:].any()
