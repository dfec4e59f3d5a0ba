"""Objectives: task losses, logit calibration, and InfoNCE between modalities."""
