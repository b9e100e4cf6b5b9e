# SPDX-License-Identifier: Apache-2.0
"""The one exception of this package."""


class MediaError(ValueError):
    """An image source or file cannot be read or written; the message says what, where and what to do."""
