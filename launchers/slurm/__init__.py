"""Parameterised sbatch scripts."""
