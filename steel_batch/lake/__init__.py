"""An object store or folder behind one interface, and what is built on put-if-absent."""

from steel_batch.lake.contract import LakeObject, ListedPage, ReadObject, ReadRequest, why_unusable
from steel_batch.lake.lake import Lake

__all__ = ["Lake", "LakeObject", "ListedPage", "ReadObject", "ReadRequest", "why_unusable"]
