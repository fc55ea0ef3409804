"""Helpers for hosts: one module for each framework, which only its users import."""
