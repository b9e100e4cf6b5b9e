# SPDX-License-Identifier: Apache-2.0
"""What evaluations raise for what was asked; sequences have their own error, see ``sequences``."""


class EvaluationError(ValueError):
    """What was asked cannot be evaluated; the message says why and what to do."""
