"""What was found, as a table with doubtful organs first, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer

from . import hand_over
from .crops import crop, show_handles
from .results import LoadedResult
from .saving import SavingError, save_dicom_seg, save_nifti, save_seg_nrrd
from .to_do import ORGAN, REGION, Row, is_checked, place_of, rows_of, set_checked
from .translation import _
from .views import jump_to, show_in_3d, shown_in_3d

NAME, AMOUNT, DOUBT, REMARK = range(4)
ROW_HEIGHT = 22  # pixels
DOUBTFUL_COLOR = (176, 84, 0)  # dark orange: readable on light and dark backgrounds


class ResultsSection:
    """Shows the result of one volume; every action looks at what the scene holds at that moment."""

    def __init__(self, ui, say: Callable[[str], None]):
        """``say`` shows a sentence to the person."""
        self._ui, self._say = ui, say
        self._result: LoadedResult | None = None
        self._rows: list[Row] = []
        header = ui.resultsTable.horizontalHeader()
        for column in (NAME, AMOUNT, DOUBT):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(REMARK, qt.QHeaderView.Stretch)
        doubt = _("Mean probability that the network gave to something else, over the voxels of the organ.")
        ui.resultsTable.horizontalHeaderItem(DOUBT).setToolTip(doubt)
        ui.resultsTable.verticalHeader().setVisible(False)
        ui.resultsTable.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        ui.resultsTable.connect("cellClicked(int,int)", self.onCell)
        ui.resultsTable.connect("currentCellChanged(int,int,int,int)", self.onCell)
        ui.resultsTable.connect("itemChanged(QTableWidgetItem*)", self.onItemChanged)
        ui.show3DButton.connect("clicked(bool)", self.onShow3D)
        ui.editButton.connect("clicked(bool)", self.onEdit)
        ui.statisticsButton.connect("clicked(bool)", self.onStatistics)
        ui.exportButton.connect("clicked(bool)", self.onExport)
        ui.cropButton.connect("clicked(bool)", self.onCrop)
        ui.seedButton.connect("clicked(bool)", self.onSeed)

    def show(self, result: LoadedResult | None) -> None:
        """Show a result, or nothing; the section opens when there is something to see for the first time."""
        if (result is None) != (self._result is None) or self._ui.resultsCollapsibleButton.enabled != bool(result):
            self._ui.resultsCollapsibleButton.collapsed = result is None
            self._ui.resultsCollapsibleButton.enabled = result is not None
        self._result = result
        self._rows = rows_of(result) if result else []
        table = self._ui.resultsTable
        blocked = table.blockSignals(True)
        chosen = table.currentRow()
        table.rowCount = len(self._rows)
        for number, row in enumerate(self._rows):
            self._fill(number, row)
        if not 0 <= chosen < len(self._rows):
            table.setCurrentCell(-1, -1)
        table.blockSignals(blocked)
        self._showButtons()

    def _fill(self, number: int, row: Row) -> None:
        percent = "" if row.doubt is None else _("{percent} %").format(percent=round(100 * row.doubt))
        for column, text in ((NAME, row.name), (AMOUNT, row.amount), (DOUBT, percent), (REMARK, row.remark)):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(row.remark or row.name)
            if column == NAME:
                item.setIcon(qt.QIcon(_patch(row.color)))
            if column == NAME and row.checked is not None:
                item.setFlags(item.flags() | qt.Qt.ItemIsUserCheckable)
                item.setCheckState(qt.Qt.Checked if row.checked else qt.Qt.Unchecked)
            if row.doubtful:
                item.setForeground(qt.QBrush(qt.QColor(*DOUBTFUL_COLOR)))
            self._ui.resultsTable.setItem(number, column, item)

    def _showButtons(self) -> None:
        segmentation = self._result.segmentation if self._result else None
        none = _("There is no segmentation of this volume yet.")
        for button in (self._ui.show3DButton, self._ui.editButton, self._ui.statisticsButton, self._ui.exportButton):
            button.enabled = segmentation is not None
        self._ui.show3DButton.checked = segmentation is not None and shown_in_3d(segmentation)
        why = none if segmentation is None else hand_over.why_no_seed()
        self._ui.seedButton.enabled = not why
        self._ui.seedButton.toolTip = why or _("Hand the volume and its corrected segmentation over to BPRTraining.")
        self._ui.cropButton.enabled = bool(self._result and self._result.regions)

    def onCell(self, number: int, column: int = 0) -> None:
        """Go to the place of a row; make the box of a region draggable."""
        if self._result is None or not 0 <= number < len(self._rows):
            return
        row = self._rows[number]
        place = place_of(row, self._result)
        if place is None:
            self._say(_("{name} is not there any more.").format(name=row.name))
            return
        jump_to(slicer.mrmlScene, place)
        chosen = [node for node in self._result.regions if row.kind == REGION and node.GetName() == row.identifier]
        show_handles(self._result.regions, chosen[0] if chosen else None)

    def goToNext(self) -> None:
        """Choose the next organ that is not ticked as checked."""
        table = self._ui.resultsTable
        start = table.currentRow() + 1
        order = [*range(start, len(self._rows)), *range(start)]
        for number in order:
            row = self._rows[number]
            if row.kind == ORGAN and self._has(row) and not is_checked(self._result.segmentation, row.identifier):
                table.setCurrentCell(number, NAME)
                return

    def onItemChanged(self, item) -> None:
        """A tick notes that the organ was looked at; it is saved with the segmentation."""
        number = item.row()
        if self._result and item.column() == NAME and 0 <= number < len(self._rows) and self._has(self._rows[number]):
            identifier = self._rows[number].identifier
            set_checked(self._result.segmentation, identifier, item.checkState() == qt.Qt.Checked)

    def _has(self, row: Row) -> bool:
        node = self._segmentation()
        return row.kind == ORGAN and node is not None and node.GetSegmentation().GetSegment(row.identifier) is not None

    def _segmentation(self):
        """The segmentation, if it is still in the scene."""
        node = self._result.segmentation if self._result else None
        return node if node is not None and node.GetScene() is not None else None

    def onShow3D(self, checked: bool) -> None:
        """Show or hide the surfaces."""
        if self._segmentation():
            with slicer.util.WaitCursor():
                show_in_3d(self._segmentation(), checked)

    def onEdit(self, checked: bool = False) -> None:
        """Open the Segment Editor."""
        if self._segmentation():
            hand_over.edit(self._segmentation(), self._result.volume)

    def onStatistics(self, checked: bool = False) -> None:
        """Compute and show a table of statistics."""
        if self._segmentation():
            with slicer.util.WaitCursor():
                hand_over.show_statistics(self._segmentation(), self._result.volume)

    def onSeed(self, checked: bool = False) -> None:
        """Hand over to the training module."""
        if self._segmentation():
            self._say(hand_over.add_seed_case(self._segmentation(), self._result.volume))

    def onCrop(self, checked: bool = False) -> None:
        """Crop to the chosen region, or to each."""
        if self._result is None:
            return
        number = self._ui.resultsTable.currentRow()
        row = self._rows[number] if 0 <= number < len(self._rows) else None
        boxes = [node for node in self._result.regions if node.GetScene() is not None]
        if row is not None and row.kind == REGION:
            boxes = [node for node in boxes if node.GetName() == row.identifier]
        try:
            names = [crop(self._result.volume, node).GetName() for node in boxes]
        except ValueError as error:
            self._say(str(error))
            return
        self._say(_("Cropped: {names}.").format(names=", ".join(names)) if names else _("There is no box any more."))

    def onExport(self, checked: bool = False) -> None:
        """Ask for a file; its suffix decides the format."""
        if not self._segmentation():
            return
        kinds = [
            _("NIfTI label map (*.nii.gz)"),
            _("Slicer segmentation (*.seg.nrrd)"),
            _("DICOM segmentation (*.dcm)"),
        ]
        name = qt.QFileDialog.getSaveFileName(None, _("Export the segmentation"), "", ";;".join(kinds))
        if name:
            with slicer.util.WaitCursor():
                self._say(self.export(Path(name)))

    def export(self, path: Path) -> str:
        """Save the segmentation; returns a sentence that says how it went."""
        segmentation, volume = self._segmentation(), self._result.volume
        try:
            if path.name.endswith(".seg.nrrd"):
                save_seg_nrrd(segmentation, path)
            elif path.name.endswith((".nii", ".nii.gz")):
                save_nifti(segmentation, volume, path)
            elif path.suffix == ".dcm":
                hand_over.ensure_highdicom()
                save_dicom_seg(segmentation, volume, hand_over.dicom_files_of(volume), path)
            else:
                return _("Name the file .nii.gz, .seg.nrrd or .dcm: the ending decides the format.")
        except (SavingError, hand_over.PackagesError) as error:
            return str(error)
        return _("Saved: {path}").format(path=path)


def _patch(color: tuple[float, float, float]):
    """A small square in a segment's color."""
    pixmap = qt.QPixmap(12, 12)
    pixmap.fill(qt.QColor(*(round(255 * channel) for channel in color)))
    return pixmap
