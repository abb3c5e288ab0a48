"""What of the chosen case is right: slices and organs."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from bpr.errors import BPRError
from bpr.models import find_bundle
from bpr.seed.marks import Mark, slices_text
from bpr.seed.taught import find_structure, structures_of

from .case_files import CaseError, current_slice, loaded_segmentation
from .project_section import ProjectSection


class MarksSection:
    """Writes marks of the case that the project's table has chosen."""

    def __init__(self, ui, projects: ProjectSection):
        self._ui, self._projects = ui, projects
        self._organs: list[str] = []
        ui.markSliceButton.connect("clicked(bool)", self.onSlice)
        ui.markRangeButton.connect("clicked(bool)", self.onRange)
        ui.markAllButton.connect("clicked(bool)", self.onAll)
        ui.clearMarksButton.connect("clicked(bool)", self.onClear)

    def show(self) -> None:
        """Follow the chosen case."""
        case = self._projects.chosen()
        markable = case is not None and bool(case.segmentation)
        for button in (self._ui.markSliceButton, self._ui.markRangeButton, self._ui.markAllButton):
            button.enabled = markable
        self._ui.clearMarksButton.enabled = markable and bool(case.marks)
        self._fillOrgans()
        if case is None:
            self._ui.marksLabel.text = _("Choose a case in the table.")
        elif not markable:
            self._ui.marksLabel.text = _("{case} has no segmentation yet: edit it first.").format(case=case.id)
        else:
            text = _("{case}, slices 0 to {last}. Right: {marks}. What is not marked is unknown and teaches nothing.")
            marks = slices_text(case.marks) or _("nothing")
            self._ui.marksLabel.text = text.format(case=case.id, last=case.slices - 1, marks=marks)
            self._ui.firstSpinBox.maximum = self._ui.lastSpinBox.maximum = case.slices - 1

    def _fillOrgans(self) -> None:
        organs = organs_of(self._projects.project)
        if organs == self._organs:
            return
        self._organs = organs
        self._ui.organsList.clear()
        for organ in organs:
            self._ui.organsList.addItem(find_structure(organ).name)

    def chosenOrgans(self) -> tuple[str, ...]:
        """IDs of the organs that are chosen in the list; none means all that are drawn."""
        return chosen_organs(self._ui.organsList, self._organs)

    def mark(self, slices: tuple[tuple[int, int], ...]) -> None:
        """Say that these slices are right."""
        case, project = self._projects.chosen(), self._projects.project
        self._projects.change(lambda: project.mark(case.id, [Mark(slices, self.chosenOrgans())]))

    def onSlice(self, checked: bool = False) -> None:
        """The slice that the red view shows is right."""
        case, project = self._projects.chosen(), self._projects.project
        segmentation = loaded_segmentation(slicer.mrmlScene, case.id, project.folder)
        view = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceNode")
        if segmentation is None or view is None:
            self._projects.say(_("Open the case with Edit, then choose the slice in the red view."))
            return
        volume = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
        try:
            index = current_slice(volume, view)
        except CaseError as error:
            self._projects.say(str(error))
        else:
            self.mark(((index, index),))

    def onRange(self, checked: bool = False) -> None:
        """The slices between the two numbers are right."""
        first, last = sorted((self._ui.firstSpinBox.value, self._ui.lastSpinBox.value))
        self.mark(((first, last),))

    def onAll(self, checked: bool = False) -> None:
        """All slices are right."""
        self.mark(())

    def onClear(self, checked: bool = False) -> None:
        """Nothing is right any more."""
        case, project = self._projects.chosen(), self._projects.project
        self._projects.change(lambda: project.mark(case.id, [], replace=True))


def organs_of(project) -> list[str]:
    """IDs of the organs or tissues that the project's model segments; empty when it is missing."""
    try:
        return [one.id for one in structures_of(find_bundle(project.bundle))] if project else []
    except (BPRError, KeyError):
        return []


def chosen_organs(widget, organs: list[str]) -> tuple[str, ...]:
    """IDs of the selected rows of a list of organs."""
    return tuple(organ for row, organ in enumerate(organs) if widget.item(row) and widget.item(row).isSelected())
