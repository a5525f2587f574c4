"""Measurements: raw values with the machine they came from; figures are computed from them."""
