# SPDX-License-Identifier: Apache-2.0
"""How well the tracker does: sequences with ground truth, metrics, one-pass runs and text-only pointing."""
