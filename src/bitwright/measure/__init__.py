"""Measuring: sizes, speed, sensitivity, activity."""
