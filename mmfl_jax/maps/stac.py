"""Describe a map as a STAC item, to be found in catalogues."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform_geom

from mmfl_jax import __version__
from mmfl_jax.maps.legend import NODATA, Legend
from mmfl_jax.maps.outputs import Outputs
from mmfl_jax.maps.rasters import Grid

_EXTENSIONS = "https://stac-extensions.github.io"
_GEOTIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
_DATE = re.compile(r"(?<!\d)(20\d\d|19\d\d)[-:]?(\d\d)[-:]?(\d\d)(?:[T _]?(\d\d)[:-]?(\d\d)[:-]?(\d\d))?(?!\d)")


def item(
    name: str, grid: Grid, outputs: Outputs, legend: Legend, tags: Sequence[Mapping[str, str]], held: Sequence[str]
) -> dict[str, Any]:
    """Return the item of a map; without geometry where nobody knows where it lies.

    Args:
        name: of the scene.
        grid: of the map.
        outputs: the files beside the item.
        legend: of the map.
        tags: of the scene's files, which may say when it was seen; else its name may, else it is the time of mapping.
        held: modalities that the map was made from.
    """
    now = datetime.datetime.now(datetime.UTC)
    place: dict[str, Any] = {"geometry": None}
    projection: dict[str, Any] = {"proj:shape": [grid.height, grid.width]}
    if grid.crs is not None:
        place = _place(grid)
        projection |= {
            "proj:epsg": grid.crs.to_epsg(),
            "proj:wkt2": grid.crs.to_wkt(version="WKT2_2019"),
            "proj:bbox": list(grid.bounds),
            "proj:transform": list(grid.transform)[:6],
        }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            f"{_EXTENSIONS}/projection/v1.1.0/schema.json",
            f"{_EXTENSIONS}/classification/v1.1.0/schema.json",
        ],
        "id": name,
        **place,
        "properties": {
            "datetime": _text(_seen(name, tags) or now),
            "created": _text(now),
            "description": f"Land cover predicted from {', '.join(held)} by mmfl_jax {__version__}",
            **projection,
        },
        "links": [],
        "assets": _assets(outputs, legend),
    }


def _place(grid: Grid) -> dict[str, Any]:
    """Return the outline of a grid in degrees, with points between its corners, and the box around it."""
    between = [step / 8 for step in range(8)]
    unit = (
        [(t, 0) for t in between]
        + [(1, t) for t in between]
        + [(1 - t, 1) for t in between]
        + [(0, 1 - t) for t in between]
    )
    ring = [grid.at(x * grid.width, y * grid.height) for x, y in unit]
    # Around the other way: outlines go against the clock.
    ring = [ring[0], *ring[:0:-1], ring[0]] if grid.transform.determinant < 0 else [*ring, ring[0]]
    try:
        geometry = transform_geom(grid.crs, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    except (RasterioError, CPLE_BaseError):  # a reference system that is nowhere on Earth
        return {"geometry": None}
    across = geometry["type"] == "MultiPolygon"  # the antimeridian: a piece on either side
    pieces = geometry["coordinates"] if across else [geometry["coordinates"]]
    pieces = [[[[round(x, 7), round(y, 7)] for x, y in ring] for ring in piece] for piece in pieces]
    longitudes, latitudes = zip(*(point for piece in pieces for point in piece[0]))
    # Such a box goes from the west of the eastern piece to the east of the western one.
    west = min(x for x in longitudes if x > 0 or not across)
    east = max(x for x in longitudes if x < 0 or not across)
    outline = {"type": geometry["type"], "coordinates": pieces if across else pieces[0]}
    return {"geometry": outline, "bbox": [west, min(latitudes), east, max(latitudes)]}


def _assets(outputs: Outputs, legend: Legend) -> dict[str, Any]:
    classes = [
        {"value": value, "name": name, "description": name, "color_hint": color.removeprefix("#").upper()}
        for value, (name, color) in enumerate(zip(legend.names, legend.colors))
    ]
    classes.append({"value": NODATA, "name": "no data", "description": "no data"})
    found: dict[str, Any] = {
        "map": {
            "href": f"./{outputs.map.name}",
            "type": _GEOTIFF,
            "roles": ["data"],
            "title": "Classes",
            "classification:classes": classes,
        }
    }
    if outputs.probabilities is not None:
        href, title = f"./{outputs.probabilities.name}", "Probabilities of the classes, a band each"
        found["probabilities"] = {"href": href, "type": _GEOTIFF, "roles": ["data"], "title": title}
    if outputs.picture is not None:
        href = f"./{outputs.picture.name}"
        found["thumbnail"] = {
            "href": href,
            "type": "image/png",
            "roles": ["overview"],
            "title": "Image, map and legend",
        }
    return found


def _seen(name: str, tags: Sequence[Mapping[str, str]]) -> datetime.datetime | None:
    """Return when a scene was seen, by a tag of its files or its name."""
    known = [text for of_file in tags for key, text in of_file.items() if "DATETIME" in key.upper()]
    for text in (*known, name):
        for found in _DATE.finditer(text):
            year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
            try:
                return datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
            except ValueError:  # digits that are no date
                continue
    return None


def _text(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
