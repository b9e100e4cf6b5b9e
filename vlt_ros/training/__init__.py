# SPDX-License-Identifier: Apache-2.0
"""Training: samples, losses and the trainer. It uses the same networks as tracking does."""
