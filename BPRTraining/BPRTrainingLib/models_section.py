"""The installed models with their cards."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _

from .models import ModelEntry, installed_models


class ModelsSection:
    """Shows the list; the chosen model's name is handed to ``onChosen``."""

    def __init__(self, ui, onChosen: Callable[[str], None]):
        self._ui, self._onChosen = ui, onChosen
        self._models: list[ModelEntry] = []
        ui.modelList.connect("currentRowChanged(int)", self.onRow)
        self.refresh()

    def refresh(self) -> None:
        """Look at the disk again."""
        self._models = installed_models()
        blocked = self._ui.modelList.blockSignals(True)
        self._ui.modelList.clear()
        for model in self._models:
            self._ui.modelList.addItem(model.name)
        self._ui.modelList.blockSignals(blocked)
        self._ui.modelsLabel.text = _("{count} models are installed.").format(count=len(self._models))

    def show(self, name: str) -> None:
        """Choose a model by name (the first one when it is not installed) and show its card."""
        names = [model.name for model in self._models]
        if not names:
            self._ui.cardText.plainText = _("No model is installed. Install the extension again.")
            return
        row = names.index(name) if name in names else 0
        if self._ui.modelList.currentRow != row:
            blocked = self._ui.modelList.blockSignals(True)
            self._ui.modelList.currentRow = row
            self._ui.modelList.blockSignals(blocked)
        self._ui.cardText.plainText = card_text(self._models[row])

    def onRow(self, row: int) -> None:
        """Hand on the choice."""
        if 0 <= row < len(self._models):
            self._onChosen(self._models[row].name)


def card_text(model: ModelEntry) -> str:
    """The model card under a line of facts, or what is wrong with the model."""
    if model.problem:
        return model.problem
    text = _("{task}, version {version}, {size} MB")
    facts = text.format(task=model.task, version=model.version, size=f"{model.size_mb:.1f}")
    return f"{facts}\n\n{model.card}"
