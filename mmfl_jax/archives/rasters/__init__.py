"""What archives of label rasters share: GDAL, grids aligned by georeference, legends, tiles in blocks."""
