"""An object store or folder behind one interface, and what put-if-absent is good for."""

from steel_batch.lake.contract import LakeObject, ReadRequest, why_unusable
from steel_batch.lake.lake import Lake

__all__ = ["Lake", "LakeObject", "ReadRequest", "why_unusable"]
