"""Entropy coding: integer probability tables and a range coder whose bytes are the same on every machine."""

from robustcodec.entropy.coder import (
    COIN,
    Decoder,
    Encoder,
    backend,
    decode_group,
    encode_group,
    ideal_bits,
    make_decoder,
    make_encoder,
)
from robustcodec.entropy.tables import (
    LARGEST_VALUE,
    PRECISION,
    TOTAL,
    Table,
    TableSet,
    gaussian_tables,
    quantise,
)

__all__ = [
    "COIN",
    "LARGEST_VALUE",
    "PRECISION",
    "TOTAL",
    "Decoder",
    "Encoder",
    "Table",
    "TableSet",
    "backend",
    "decode_group",
    "encode_group",
    "gaussian_tables",
    "ideal_bits",
    "make_decoder",
    "make_encoder",
    "quantise",
]
