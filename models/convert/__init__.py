# SPDX-License-Identifier: MIT
"""Trained recurrent networks of other formats to model directories of lstm-server (docs/model_format.md). Nothing of
a file is ever executed.

    python3 models/convert FORMAT FILE --output DIR/NAME/1
"""
