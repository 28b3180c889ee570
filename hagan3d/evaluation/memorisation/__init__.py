"""Tests for memorised training volumes."""
