"""Draw the land of a tile: what lies at each pixel, the same for every sensor and the map.

Everything is a function of coordinates in a tile of width one, so the same land shows at coarser or finer pixels:
parcels of straight edges in districts of one direction each, smooth bodies (lakes, woods, moors) where a random field
is above a level, a winding river, and towns of blocks between streets.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mmfl_jax.archives.base import IGNORED
from mmfl_jax.archives.twin import surfaces
from mmfl_jax.archives.twin.drawing import FlatChance, pixel_axis

ROWS = 64
"""Of tables of fields and of blocks; neighbours never share one."""
_DISTRICTS = 4
_LAND = 0


class Grid(NamedTuple):
    """Hold the coordinates of pixels, [size, size], in a tile of width one."""

    x: Array
    y: Array


class Land(NamedTuple):
    """Hold what lies at each pixel of a tile.

    Attributes:
        surface: int32 [size, size], a row of ``SURFACES``.
        green, ripe: float32 [size, size], the share of a field's soil that crops of that kind hide, 0 off the fields.
        wet: float32 [size, size], how wet and rough a field is, of mean zero and unit variance, 0 off the fields.
        clumps: float32 [size, size], smooth, of mean zero and unit variance.
        slope: float32 [size, size], how steeply the land rises towards the light and the radar.
        labelled: bool [size, size], whether the map reaches there.
    """

    surface: Array
    green: Array
    ripe: Array
    wet: Array
    clumps: Array
    slope: Array
    labelled: Array


def draw_land(key: Array, country: Array, season: Array, size: int) -> Land:
    """Draw the land of one tile.

    Args:
        key: of the sample.
        country: int, index in ``COUNTRIES``.
        season: int, index in ``SEASONS``; crops alone depend on it.
        size: pixels of a side.
    """
    chance = FlatChance(jax.random.fold_in(key, _LAND), 2048)
    landscape = surfaces.Landscape(*jnp.asarray(list(surfaces.LANDSCAPES.values()), jnp.float32)[country])
    smooth = chance.smooth(5, 5, size)
    rough = chance.smooth(3, 16, size)
    height, wooded, shrubby, stony, kind = jnp.moveaxis(smooth + 0.3 * rough[..., jnp.array([0, 1, 2, 0, 1])], -1, 0)
    grid = Grid(*jnp.broadcast_arrays(pixel_axis(size)[None], pixel_axis(size)[:, None]))
    field, hedge, road, grass = _parcels(chance, grid, landscape)
    surface = jnp.where(grass, surfaces.MEADOW, surfaces.SOIL)
    surface = jnp.where(hedge & (chance.uniform() < landscape.hedges), surfaces.BROADLEAF, surface)
    surface = jnp.where(shrubby > _above(landscape.shrub) + chance.normal() / 1.7, surfaces.SHRUB, surface)
    tree = jnp.where(kind > _above(landscape.conifer), surfaces.CONIFER, surfaces.BROADLEAF)
    surface = jnp.where(wooded > _above(landscape.woods) + chance.normal() / 1.7, tree, surface)
    surface = jnp.where(road, surfaces.STREETS, surface)
    stones = jnp.where(chance.uniform() < landscape.bare, _above(0.04 + 0.3 * chance.uniform()), jnp.inf)
    surface = jnp.where(stony > stones, surfaces.BARE, surface)
    surface = _towns(chance, surface, grid, landscape.town)
    surface = _waters(chance, surface, grid, landscape, road, -height, rough[..., 2])
    slope = landscape.relief * (height - jnp.roll(height, 1, 1)).at[:, 0].set(0) * size / 10
    sown = (surface == surfaces.SOIL)[..., None]
    green, ripe, wet = jnp.moveaxis(jnp.where(sown, _crops(chance, season)[field], 0), -1, 0)
    return Land(surface, green, ripe, wet, rough[..., 2], slope, _labelled(chance, grid))


def labels_of(land: Land) -> Array:
    """Return uint8 [size, size] class numbers, ``IGNORED`` where the map does not reach."""
    classes = jnp.asarray(surfaces.SURFACE_CLASSES)[land.surface]
    return jnp.where(land.labelled, classes, jnp.uint8(IGNORED))


def _above(share: Array | float) -> Array:
    """Return the level that a field of unit variance is above in this share of places (a logistic curve, nearly)."""
    return jnp.log(1 / share - 1) / 1.7


def _turned(grid: Grid, angle: Array, centre: Array | tuple[float, float]) -> tuple[Array, Array]:
    """Return coordinates along and across a direction, of an angle from 0 to 1, as seen from a centre."""
    x, y = grid.x - centre[0], grid.y - centre[1]
    cosine, sine = jnp.cos(np.pi * angle), jnp.sin(np.pi * angle)
    return x * cosine + y * sine, y * cosine - x * sine


def _fraction(values: Array) -> Array:
    return values - jnp.floor(values)


def _to_whole(values: Array) -> Array:
    """Return how far the nearest whole number is."""
    return jnp.abs(values - jnp.round(values))


def _table_row(*counts: Array) -> Array:
    """Return int32 rows of tables of ``ROWS``, for whole numbers that count districts, strips and cells of them."""
    return jnp.asarray(sum(step * count for step, count in zip((5, 23, 13), counts)) % ROWS, jnp.int32)


def _parcels(chance: FlatChance, grid: Grid, landscape: surfaces.Landscape) -> tuple[Array, Array, Array, Array]:
    """Return of each pixel its field, and whether it is on a hedge, a road or a meadow.

    Districts are the nearest of a few points; each has strips in a direction of its own, cut into fields.
    """
    left, top = 1.4 * chance.uniform(2, _DISTRICTS) - 0.2
    widths = landscape.parcel * chance.spread(_DISTRICTS, deviation=0.3)
    lengths = widths * (1.3 + 2.5 * chance.uniform(_DISTRICTS))
    angles = np.pi * chance.uniform(_DISTRICTS)
    shifts = 7 * chance.uniform(_DISTRICTS)
    x, y = grid
    squares = [(x - left[number]) ** 2 + (y - top[number]) ** 2 for number in range(_DISTRICTS)]
    nearest = functools.reduce(jnp.minimum, squares)

    # Selections fuse into one pass over the pixels; looking up rows of a table does not.
    def here(values: Array) -> Array:
        return jnp.select([square == nearest for square in squares], list(values))

    wide, long, cosine, sine = map(here, (widths, lengths, jnp.cos(angles), jnp.sin(angles)))
    strips = (y * cosine - x * sine) / wide + here(shifts)
    strips += 0.3 * jnp.sin(2.6 * strips)  # of unequal widths
    cells = (x * cosine + y * sine) / long + 7.3 * _fraction(jnp.floor(strips) * 0.618)
    # How far the border to the next district is: half of the difference of squares, by the distance of the points.
    border, my_left, my_top = jnp.full(x.shape, jnp.inf), here(left), here(top)
    for number, square in enumerate(squares):
        apart = jnp.sqrt((left[number] - my_left) ** 2 + (top[number] - my_top) ** 2)
        border = jnp.minimum(border, jnp.where(apart > 0, (square - nearest) / (2 * apart + 1e-6), jnp.inf))
    half = max(0.55 / x.shape[0], 0.006)  # of the width of roads and hedges: a pixel's at least
    edge = jnp.minimum(wide * _to_whole(strips), long * _to_whole(cells))
    field = _table_row(jnp.floor(strips), jnp.floor(cells), here(jnp.arange(_DISTRICTS)))
    grass = chance.uniform(ROWS) < jnp.clip(landscape.meadow + 0.2 * chance.normal(), 0.03, 0.97)
    return field, edge < half, border < half, grass[field]


def _crops(chance: FlatChance, season: Array) -> Array:
    """Return [ROWS, 3]: how much of the soil green and ripe crops hide, and how wet it is; a field grows one crop."""
    kinds = (chance.uniform(ROWS) * len(surfaces.CROPS)).astype(jnp.int32)
    calendar = jnp.asarray(surfaces.CROPS).reshape(-1, 2, 4)[kinds, :, season]
    hidden = calendar * chance.spread(ROWS, 2, deviation=0.25)
    hidden /= jnp.maximum(hidden.sum(1, keepdims=True), 1)
    return jnp.concatenate([hidden, chance.normal(ROWS, 1)], 1)


def _towns(chance: FlatChance, surface: Array, grid: Grid, town: Array | float) -> Array:
    """Build up to one town and one village: blocks between streets, fewer towards the edge, some of them parks."""
    centre = chance.uniform(2, 2)
    radius = jnp.array([0.14, 0.07]) + jnp.array([0.36, 0.1]) * chance.uniform(2)
    there = chance.uniform(2) < town
    spacing = 0.07 + 0.06 * chance.uniform(2)
    for number in range(2):
        along, across = _turned(grid, chance.uniform(), centre[:, number])
        u, v = along / spacing[number], across / spacing[number] * 0.7
        block = _table_row(jnp.floor(u), jnp.floor(v))
        edge, use = (chance.uniform(ROWS)[block] for _ in range(2))
        distance = jnp.sqrt(along**2 + across**2) / radius[number]
        inside = there[number] & (distance + 0.5 * edge < 1.15)
        street = (_fraction(u) < 0.2) | (_fraction(v) < 0.18)
        roofs = use > 0.25 + 0.4 * distance
        park = use < 0.1
        use = jnp.where(roofs, surfaces.ROOFS, jnp.where(park, surfaces.BROADLEAF, surfaces.YARDS))
        use = jnp.where(street, surfaces.STREETS, use)
        surface = jnp.where(inside, use, surface)
    return surface


def _waters(
    chance: FlatChance,
    surface: Array,
    grid: Grid,
    landscape: surfaces.Landscape,
    road: Array,
    depth: Array,
    rough: Array,
) -> Array:
    """Flood the low land and lay a winding river, with sand, reeds and trees beside them."""
    level = jnp.where(chance.uniform() < landscape.lake, _above(0.04 + 0.36 * chance.uniform()), 4.0)
    along, across = _turned(grid, chance.uniform(), (0.5, 0.5))
    phases, bends = 2 * np.pi * chance.uniform(2), jnp.array([0.12, 0.04]) * chance.spread(2, deviation=0.4)
    path = bends[0] * jnp.sin(5 * along + phases[0]) + bends[1] * jnp.sin(14 * along + phases[1])
    width = 0.018 + 0.035 * chance.uniform()
    shore = jnp.abs(across - path - 0.5 * (chance.uniform() - 0.5)) - width * (1 + 0.15 * rough)
    shore = jnp.where(chance.uniform() < landscape.river, shore, 1.0)
    wide = jnp.where(chance.uniform() < landscape.reeds, 0.5 + 0.8 * chance.uniform(), 0.0)
    marsh = (depth > level - wide * (0.6 + 0.4 * rough)) | (shore < 0.07 * wide * (0.8 + rough))
    # A bog needs no open water.
    bog = depth - 0.5 * rough > jnp.where(
        chance.uniform() < 0.5 * landscape.reeds, _above(0.05 + 0.2 * chance.uniform()), jnp.inf
    )
    soft = (surface != surfaces.ROOFS) & (surface != surfaces.STREETS) & (surface != surfaces.YARDS)
    beach = (depth > level - 0.22) & (chance.uniform() < 0.5)
    lined = (shore < 0.02 + 0.015 * rough) & (rough > 0)
    surface = jnp.where(lined & soft, surfaces.BROADLEAF, surface)
    surface = jnp.where((marsh | bog) & soft, surfaces.REEDS, surface)
    surface = jnp.where(beach & soft, surfaces.BARE, surface)
    # Roads have bridges over rivers, none over lakes.
    return jnp.where((depth > level) | ((shore < 0) & ~road), surfaces.WATER, surface)


def _labelled(chance: FlatChance, grid: Grid) -> Array:
    """Return whether the map reaches a pixel: of some tiles a side lies beyond its edge."""
    along, _ = _turned(grid, chance.uniform(), (0.5, 0.5))
    edge = jnp.where(chance.uniform() < surfaces.UNLABELLED_SHARE, 0.25 + 0.25 * chance.uniform(), 1.0)
    return along < edge
