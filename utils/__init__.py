"""Stages, configuration, training, inference, evaluation."""
