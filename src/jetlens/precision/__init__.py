"""Precision: fp16 and int8 graphs made from fp32 ones, and kept only where their answers still hold."""
