"""Archives: samples with images by modality at their own size, labels and attributes, read lazily.

``open`` takes a short reference, ``KIND`` or ``KIND:LOCATION``. A further kind is one function::

    @register("tiles", "tiles:DIR  a folder per modality and labels of the same file names")
    def open_tiles(location: str, options: OpenOptions) -> Archive: ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmfl_jax.archives.base import Archive, ModalitySpec, Subset, choose, random_subset
from mmfl_jax.archives.options import Bands, DataOptions, Resampling
from mmfl_jax.archives.prepared import is_prepared
from mmfl_jax.errors import UserError

__all__ = ["Archive", "ModalitySpec", "OpenOptions", "Subset", "archives", "open", "register"]


@dataclass(frozen=True)
class OpenOptions:
    """Hold how an archive is to be read; the arguments of ``open`` say what each is."""

    modalities: tuple[str, ...] | None
    image_size: int | None
    samples: int | None
    bands: int
    resampling: str
    seed: int
    image_cache: str = ""


Opener = Callable[[str, OpenOptions], Archive]
_KINDS: dict[str, tuple[str, Opener]] = {}


def register(kind: str, description: str, *, copies: bool = True) -> Callable[[Opener], Opener]:
    """Add a kind of archive: decorate the function that opens ``kind:location`` with the given options.

    Args:
        kind: the name.
        description: a line.
        copies: prepared copies, whose parts are the archive's modalities, are opened in the function's place.
    """

    def add(opener: Opener) -> Opener:
        def opened(location: str, options: OpenOptions) -> Archive:
            if not location or not is_prepared(location):
                return opener(location, options)
            from mmfl_jax.archives.prepared.archive import Prepared

            return random_subset(Prepared(location, kind, options), options.samples, options.seed)

        _KINDS[kind] = description, opened if copies else opener
        return opener

    return add


def archives() -> dict[str, str]:
    """Return the kinds of archives there are, each with a line that describes it."""
    return {kind: description for kind, (description, _) in _KINDS.items()}


def open(
    reference: str,
    *,
    modalities: Sequence[str] | None = None,
    image_size: int | None = None,
    samples: int | None = None,
    bands: Bands = 10,
    resampling: Resampling = "bilinear",
    seed: int = 0,
    image_cache: str = "",
) -> Archive:
    """Open an archive by its short reference.

    Args:
        reference: ``twin``, ``twintiles``, ``twinscenes``, ``bigearthnet:DIR``, ``scenes:DIR``, ``tiles:DIR``,
            ``dynamicworld:DIR``, ``sen1floods11:DIR``, ``arrays:FILE.npz``, ``tfds:NAME@DIR``, or a kind that was
            registered.
        modalities: which to read, in which order; all by default.
        image_size: height and width to bring images to; None or 0 for their own. Tiles with labels by pixel are cut
            into blocks of it.
        samples: for the twin how many to make (16,500 by default, 2,000 tiles or scenes), else at most so many, drawn
            at random; None or 0 for all.
        bands: of Sentinel-2: 10, or 12 with the two of 60 m.
        resampling: ``bilinear`` or ``nearest``, for bands coarser than the image, and tiles on another grid than their
            labels.
        seed: of the twin's images and of the drawn samples.
        image_cache: folder that keeps the twin's images once they are drawn; empty to keep none.

    Raises:
        UserError: a kind, location, modality or option that does not exist.
    """
    DataOptions(image_size=image_size or 0, samples=samples or 0, bands=bands, resampling=resampling)  # checks them
    names = None if modalities is None else tuple(modalities)
    options = OpenOptions(names, image_size or None, samples or None, bands, resampling, seed, image_cache)
    kind, _, location = reference.partition(":")
    return _KINDS[choose(kind, _KINDS, "kind of archive")][1](location, options)


@register("twin", "twin  synthetic BigEarthNet-MM (Sentinel-1/2, 19 classes, ten countries), made on the fly")
def _open_twin(location: str, options: OpenOptions) -> Archive:
    from mmfl_jax.archives.twin.cache import kept_on_disk
    from mmfl_jax.archives.twin.patches import SAMPLES, Twin

    if location:
        raise UserError(f"twin:{location}: the twin has no location; write twin, and its size and seed as options")
    samples, size = options.samples or SAMPLES, options.image_size or 120
    twin = Twin(samples, modalities=options.modalities, image_size=size, bands=options.bands, seed=options.seed)
    return kept_on_disk(twin, options.image_cache, (samples, size, options.bands, options.seed))


@register("twinscenes", "twinscenes  RGB scenes of the twin, one class each, made on the fly")
def _open_twin_scenes(location: str, options: OpenOptions) -> Archive:
    from mmfl_jax.archives.twin.scenes import TwinScenes

    if location:
        raise UserError(f"twinscenes:{location}: the twin has no location; write twinscenes, and its size as options")
    return TwinScenes(
        samples=2000 if options.samples is None else options.samples,
        modalities=options.modalities,
        image_size=options.image_size or 32,
        seed=options.seed,
    )


@register("twintiles", "twintiles  land cover by pixel: tiles of the twin with Sentinel-1/2, made on the fly")
def _open_twin_tiles(location: str, options: OpenOptions) -> Archive:
    from mmfl_jax.archives.twin.tiles import TwinTiles

    if location:
        raise UserError(f"twintiles:{location}: the twin has no location; write twintiles, and its size as options")
    return TwinTiles(
        samples=2000 if options.samples is None else options.samples,
        modalities=options.modalities,
        image_size=options.image_size or 64,
        bands=options.bands,
        seed=options.seed,
    )


@register(
    "bigearthnet",
    "bigearthnet:DIR  BigEarthNet-MM v1 or v2 as published, one folder a patch; rico-hdl's LMDB; or prepared",
    copies=False,
)
def _open_bigearthnet(location: str, options: OpenOptions) -> Archive:
    from mmfl_jax.archives.bigearthnet import BigEarthNet

    archive = BigEarthNet(
        _located("bigearthnet:DIR", location),
        modalities=options.modalities,
        image_size=options.image_size or 120,
        bands=options.bands,
        resampling=options.resampling,
    )
    return random_subset(archive, options.samples, options.seed)


@register("arrays", "arrays:FILE.npz  NumPy arrays of any shape with `label`, NaN for missing values")
def _open_arrays(location: str, options: OpenOptions) -> Archive:
    from mmfl_jax.archives.arrays import Arrays

    return _open_located("arrays:FILE.npz", Arrays, location, options)


@register(
    "scenes", "scenes:DIR[,DIR]  aerial scenes, a folder for each class: Optimal-31, UC Merced, NWPU-RESISC45, own"
)
def _open_scenes(location: str, options: OpenOptions) -> Archive:
    import os

    from mmfl_jax.archives.scenes import Scenes

    location = _located("scenes:DIR", location)
    directories = [location] if os.path.isdir(location) else [part.strip() for part in location.split(",")]
    if not all(directories):
        raise UserError(f"scenes:{location}: a directory is missing beside a comma; write scenes:DIR1,DIR2")
    archive = Scenes(directories, modalities=options.modalities, image_size=options.image_size or 224)
    return random_subset(archive, options.samples, options.seed)


@register("tiles", "tiles:DIR  GeoTIFFs, a folder for each modality and one of label rasters, equal file names")
def _open_tiles(location: str, options: OpenOptions) -> Archive:
    from mmfl_jax.archives.tiles import open_tiles

    return _open_located("tiles:DIR", open_tiles, location, options)


@register("dynamicworld", "dynamicworld:DIR  Dynamic World's expert labels, joined with images in folders S1, S2, ...")
def _open_dynamicworld(location: str, options: OpenOptions) -> Archive:
    from mmfl_jax.archives.dynamicworld import open_dynamicworld

    return _open_located("dynamicworld:DIR", open_dynamicworld, location, options)


@register("sen1floods11", "sen1floods11:DIR  Sen1Floods11 v1.1 as published: hand-labelled floods, by country")
def _open_sen1floods11(location: str, options: OpenOptions) -> Archive:
    from mmfl_jax.archives.sen1floods11 import open_sen1floods11

    return _open_located("sen1floods11:DIR", open_sen1floods11, location, options)


@register("tfds", "tfds:NAME[@DIR]  a data set of TensorFlow Datasets on disk, such as so2sat/all or eurosat/all")
def _open_tfds(location: str, options: OpenOptions) -> Archive:
    from mmfl_jax.archives.tfds import Tfds

    return _open_located("tfds:NAME@DIR", Tfds, location, options)


def _open_located(form: str, opener: Callable[..., Archive], location: str, options: OpenOptions) -> Archive:
    """Open what is brought to a size by resampling, and take as many samples as are wanted."""
    archive = opener(
        _located(form, location),
        modalities=options.modalities,
        image_size=options.image_size,
        resampling=options.resampling,
    )
    return random_subset(archive, options.samples, options.seed)


def _located(form: str, location: str) -> str:
    if not location.strip():
        raise UserError(f"archive {form.partition(':')[0]!r}: a location is missing; write {form}")
    return location
