"""Files of the Hugging Face Hub, by address, for whatever reads a folder of this disk.

  hf:OWNER/NAME                     a repository of weights
  hf:OWNER/NAME@REVISION/FOLDER     of a branch, tag or commit; a folder or a file in it
  hf:datasets/OWNER/NAME            a repository of data

Only the files that are asked for are downloaded, into the cache of `huggingface_hub`
(HF_HOME), whose layout is public: `blobs/DIGEST`, `snapshots/COMMIT/NAME` with links to
these, `refs/REVISION` with a commit. What is there is not downloaded again, and without
a network it is all there is.
"""

from ccl_jax.hub.address import SCHEME, digest_of, is_address, origin
from ccl_jax.hub.download import bring, download, local
from ccl_jax.hub.repository import Repository, open_repository

__all__ = [
  "SCHEME", "Repository", "bring", "digest_of", "download", "is_address", "local",
  "open_repository", "origin",
]  # fmt: skip
