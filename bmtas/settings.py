"""The base of all settings: given by name, checked, never changed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings that refuse unknown names and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
