"""Regions and organs, which no single widget can be bound to, and the buttons that restore defaults."""

from __future__ import annotations

import qt

from bpr.errors import BPRError
from bpr.models import choose_bundles
from bpr.segmentation.labels import label_table

from .choices import Device, Engine, TileSize
from .translation import _

# What the buttons set back; the declaration of the parameter node in the module file must say the same.
OUTPUT_DEFAULTS = {"produceScores": True, "produceRegions": True, "produceSegmentation": True,
                   "leftOutRegions": [], "leftOutOrgans": []}  # fmt: skip
ADVANCED_DEFAULTS = {"device": Device.AUTO, "gpu": 0, "engine": Engine.AUTO, "sliceStep": 2.5, "margin": 0.0,
                     "tileSize": TileSize.AUTO}  # fmt: skip


class ChoicesSection:
    """Shows and changes the lists of a parameter node: which regions and which organs are left out."""

    def __init__(self, ui):
        from bpr.regions import region_table  # reads images too: not needed before the panel is opened

        self._ui, self._node = ui, None
        self._shownModels: tuple | None = None
        self._regions = {region.name: self._regionItem(region.name) for region in region_table()}
        self._groups: dict[str, object] = {}
        self._organs = {structure.id: self._organItem(structure) for structure in label_table()}
        ui.organsTree.expandAll()
        ui.regionsList.connect("itemChanged(QListWidgetItem*)", self.onRegionsChanged)
        ui.organsTree.connect("itemChanged(QTreeWidgetItem*,int)", self.onOrgansChanged)
        ui.organsFilterEdit.connect("textChanged(QString)", self.onFilter)
        ui.organsAllButton.connect("clicked(bool)", self.onAll)
        ui.organsNoneButton.connect("clicked(bool)", self.onNone)
        ui.outputsDefaultsButton.connect("clicked(bool)", self.onOutputDefaults)
        ui.advancedDefaultsButton.connect("clicked(bool)", self.onAdvancedDefaults)

    def _regionItem(self, name: str):
        item = qt.QListWidgetItem(name)
        item.setFlags(item.flags() | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked)
        self._ui.regionsList.addItem(item)
        return item

    def _organItem(self, structure):
        group = self._groups.get(structure.group)
        if group is None:
            group = self._groups[structure.group] = qt.QTreeWidgetItem()
            group.setText(0, structure.group)
            self._ui.organsTree.addTopLevelItem(group)
        item = qt.QTreeWidgetItem()
        item.setText(0, structure.name)
        item.setFlags(item.flags() | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(0, qt.Qt.Checked)
        group.addChild(item)
        return item

    def setParameterNode(self, node) -> None:
        """Show another parameter node, or none."""
        self._node = node
        self.show()

    def show(self) -> None:
        """Bring the lists in line with the parameter node."""
        if self._node is None:
            return
        regions = (self._ui.regionsList, self._regions, self._node.leftOutRegions, ())
        organs = (self._ui.organsTree, self._organs, self._node.leftOutOrgans, (0,))  # a tree's items have columns
        for widget, items, left_out, column in (regions, organs):
            blocked, left_out = widget.blockSignals(True), set(left_out)
            for name, item in items.items():
                item.setCheckState(*column, qt.Qt.Unchecked if name in left_out else qt.Qt.Checked)
            widget.blockSignals(blocked)
        self._ui.gpuSpinBox.enabled = self._node.device is Device.CUDA
        self._showKnown()

    def _showKnown(self) -> None:
        """Gray out the organs that no model in use knows."""
        models = tuple(self._node.models)
        if models == self._shownModels:
            return
        self._shownModels = models
        known = known_organs(list(models))
        blocked = self._ui.organsTree.blockSignals(True)
        for name, item in self._organs.items():
            item.setDisabled(name not in known)
            item.setToolTip(0, "" if name in known else _("None of the models in use knows this organ."))
        self._ui.organsTree.blockSignals(blocked)

    def onRegionsChanged(self, item=None) -> None:
        """A region was ticked or unticked."""
        if self._node is not None:
            self._node.leftOutRegions = [n for n, i in self._regions.items() if i.checkState() != qt.Qt.Checked]

    def onOrgansChanged(self, item=None, column: int = 0) -> None:
        """An organ was ticked or unticked."""
        if self._node is not None:
            self._node.leftOutOrgans = [n for n, i in self._organs.items() if i.checkState(0) != qt.Qt.Checked]

    def onFilter(self, text: str) -> None:
        """Hide what does not contain the text, and groups that have nothing left."""
        for item in self._organs.values():
            item.setHidden(text.lower() not in item.text(0).lower())
        for group in self._groups.values():
            group.setHidden(all(group.child(row).isHidden() for row in range(group.childCount())))

    def onAll(self, checked: bool = False) -> None:
        """Tick what the filter shows."""
        self._setShown(qt.Qt.Checked)

    def onNone(self, checked: bool = False) -> None:
        """Untick what the filter shows."""
        self._setShown(qt.Qt.Unchecked)

    def _setShown(self, state) -> None:
        blocked = self._ui.organsTree.blockSignals(True)
        for item in self._organs.values():
            if not item.isHidden():
                item.setCheckState(0, state)
        self._ui.organsTree.blockSignals(blocked)
        self.onOrgansChanged()

    def onOutputDefaults(self, checked: bool = False) -> None:
        """Produce everything again."""
        self._restore(OUTPUT_DEFAULTS)

    def onAdvancedDefaults(self, checked: bool = False) -> None:
        """Quality, device and engine as they were."""
        self._restore(ADVANCED_DEFAULTS)

    def _restore(self, defaults: dict) -> None:
        if self._node is not None:
            for name, value in defaults.items():
                setattr(self._node, name, value)


def known_organs(models: list[str]) -> set[str]:
    """IDs of the structures that the models in use were trained for; all when a model cannot be read."""
    everything = {structure.id for structure in label_table()}
    try:
        chosen = choose_bundles(models)
        if "domain" in chosen:
            return set()
        baseline = chosen.get("baseline")
        if baseline is not None and baseline.name in models:
            return set(baseline.facts["structures"])
        regions = [bundle for slot, bundle in chosen.items() if slot not in ("score", "baseline")]
        return {name for bundle in regions for name in bundle.facts["structures"]}
    except (BPRError, KeyError):
        return everything
