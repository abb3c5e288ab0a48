"""Body composition in the panel: the level, one button, areas and densities, and the way to the slice."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer

from .composition import LoadedComposition, composition_text, find_composition, plain_tissue
from .placement import ijk_to_ras, parent_to_world
from .run import Run
from .translation import _
from .views import jump_to
from .words import time_text

TISSUE, AREA, DENSITY = range(3)
ROW_HEIGHT = 22  # pixels


class CompositionSection:
    """Shows the measurement that the scene holds for a volume; starts and stops nothing itself."""

    def __init__(self, ui, onMeasure: Callable[[], None]):
        """``onMeasure`` is called when the button is clicked: to measure, or to stop."""
        self._ui = ui
        self._loaded: LoadedComposition | None = None
        self._volume = None  # the last one that was shown
        header = ui.compositionTable.horizontalHeader()
        header.setSectionResizeMode(TISSUE, qt.QHeaderView.Stretch)
        for column in (AREA, DENSITY):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        ui.compositionTable.verticalHeader().setVisible(False)
        ui.compositionTable.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        ui.compositionTable.connect("cellClicked(int,int)", self.onShowLevel)
        ui.measureButton.connect("clicked(bool)", lambda checked: onMeasure())
        ui.showLevelButton.connect("clicked(bool)", self.onShowLevel)

    def showButton(self, running: bool, missing: str) -> None:
        """Measure, Cancel, or a disabled button with a sentence that says what is missing."""
        button = self._ui.measureButton
        button.text = _("Cancel") if running else _("Measure muscle and fat")
        button.enabled = running or not missing
        tip = _("Find the level, segment muscle and fat on its slices, and give areas and densities.")
        button.toolTip = _("Stop; the scene stays as it is.") if running else missing or tip

    def showVolume(self, volumeNode) -> None:
        """Show what the scene holds for a volume; a word on how the last measurement ended stays until another one."""
        found, before = find_composition(volumeNode), self._loaded
        another = volumeNode is not None and volumeNode is not self._volume
        self._volume = volumeNode or self._volume
        self._show(found)
        if found is not None or before is not None or another:
            self._ui.compositionLabel.text = composition_text(found.summary) if found is not None else ""

    def showProgress(self, run: Run) -> None:
        """Progress of a measurement that runs."""
        bar, progress = self._ui.compositionProgressBar, run.progress
        bar.visible = True
        bar.value = int(1000 * progress.fraction)
        self._ui.compositionLabel.text = f"{progress.stage}  {time_text(run.elapsed_s, progress.remaining_s)}"

    def showEnd(self, text: str) -> None:
        """No measurement any more, and why."""
        self._ui.compositionProgressBar.visible = False
        self._ui.compositionLabel.text = text

    def showResult(self, loaded: LoadedComposition) -> None:
        """A finished measurement: numbers, remarks, and its slice in all views."""
        self.showEnd(composition_text(loaded.summary))
        self._show(loaded if loaded.table is not None else None)
        self._ui.compositionCollapsibleButton.collapsed = False
        if self._loaded:
            self.onShowLevel()

    def _show(self, loaded: LoadedComposition | None) -> None:
        self._loaded = loaded
        table, tissues = self._ui.compositionTable, loaded.summary.get("tissues", {}) if loaded else {}
        table.rowCount = len(tissues)
        for number, (name, values) in enumerate(tissues.items()):
            density = "" if values["mean_hu"] is None else f"{values['mean_hu']:.0f}".replace("-", "−")
            cells = ((TISSUE, plain_tissue(name)), (AREA, f"{values['area_cm2']:.1f}"), (DENSITY, density))
            for column, text in cells:
                item = qt.QTableWidgetItem(text)
                if column != TISSUE:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(number, column, item)
        table.visible = bool(tissues)
        self._ui.showLevelButton.enabled = bool(tissues)

    def onShowLevel(self, *_clicked) -> None:
        """Bring the level's slice into all views."""
        if self._loaded is None or self._loaded.volume.GetScene() is None:
            return
        volume, height = self._loaded.volume, self._loaded.summary["z_mm"]
        size = volume.GetImageData().GetDimensions()
        center = ijk_to_ras(volume) @ [*((n - 1) / 2 for n in size), 1.0]
        jump_to(slicer.mrmlScene, (parent_to_world(volume) @ [center[0], center[1], height, 1.0])[:3])
