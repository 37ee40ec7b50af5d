"""Searches compared: strategies over derived spaces, and TVM's own tuner as it comes, at equal trials."""
