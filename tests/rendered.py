"""The renderers of plans as tests call them: with all kinds of objects that come with flowplan."""

from __future__ import annotations

from functools import partial

from flowplan.engines import BUILT_IN, kinds_of
from flowplan.render import plan_markdown as markdown
from flowplan.render import plan_text as text

KINDS = kinds_of(BUILT_IN)
plan_markdown = partial(markdown.plan_markdown, kinds=KINDS)
plan_text = partial(text.plan_text, kinds=KINDS)
