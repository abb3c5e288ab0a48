"""The models: which there are, which are used, and those of one's own coming and going."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer

from bpr.errors import BPRError
from bpr.models import (
    Bundle,
    choose_bundles,
    domain_models,
    import_bundle,
    list_bundles,
    remove_bundle,
    user_models_dir,
)

from .translation import _

DOMAIN = "domain"  # slot of the models for another anatomy or modality, which run alone
USE, MODEL, VERSION, PURPOSE, SIZE = range(5)
ROW_HEIGHT = 22  # pixels


class ModelsSection:
    """Shows all bundles; the ticked ones are the parameter ``models``."""

    def __init__(self, ui):
        self._ui, self._node = ui, None
        self._bundles: list[Bundle] = []
        header = ui.modelsTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(PURPOSE, qt.QHeaderView.Stretch)
        ui.modelsTable.verticalHeader().setVisible(False)
        ui.modelsTable.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        ui.modelsTable.connect("itemChanged(QTableWidgetItem*)", self.onTicked)
        ui.modelsTable.connect("itemSelectionChanged()", self.onSelected)
        ui.importZipButton.connect("clicked(bool)", self.onImportZip)
        ui.importFolderButton.connect("clicked(bool)", self.onImportFolder)
        ui.verifyModelButton.connect("clicked(bool)", self.onVerify)
        ui.removeModelButton.connect("clicked(bool)", self.onRemove)
        ui.modelsFolderButton.connect("clicked(bool)", self.onOpenFolder)
        self.refresh()

    def setParameterNode(self, node) -> None:
        """Follow the choices of another parameter node, or of none."""
        self._node = node
        self.show()

    def refresh(self) -> None:
        """Look at the disk again."""
        self._bundles = list_bundles()
        table = self._ui.modelsTable
        blocked = table.blockSignals(True)
        table.rowCount = len(self._bundles)
        for number, bundle in enumerate(self._bundles):
            tick = qt.QTableWidgetItem("")
            tick.setFlags(tick.flags() | qt.Qt.ItemIsUserCheckable)
            tick.setCheckState(qt.Qt.Unchecked)
            table.setItem(number, USE, tick)
            texts = {MODEL: bundle.name, VERSION: "", PURPOSE: _("damaged"), SIZE: f"{bundle.size_mb():.1f} MB"}
            try:
                texts |= {VERSION: bundle.version, PURPOSE: purpose(bundle)}
            except BPRError as error:
                tick.setFlags(qt.Qt.NoItemFlags)
                tick.setToolTip(str(error))
            for column, text in texts.items():
                table.setItem(number, column, qt.QTableWidgetItem(text))
        table.blockSignals(blocked)
        self.show()
        self.onSelected()

    def show(self) -> None:
        """Tick the models that will be used."""
        used = self.used()
        blocked = self._ui.modelsTable.blockSignals(True)
        for number, bundle in enumerate(self._bundles):
            state = qt.Qt.Checked if bundle.name in used else qt.Qt.Unchecked
            self._ui.modelsTable.item(number, USE).setCheckState(state)
        self._ui.modelsTable.blockSignals(blocked)

    def used(self) -> set[str]:
        """Names of the models that a run would use with the present choices."""
        wanted = list(self._node.models) if self._node is not None else []
        there = {bundle.name for bundle in self._bundles}
        wanted = [name for name in wanted if name in there]
        if domain_models(wanted):
            return set(wanted)
        try:
            chosen = choose_bundles(wanted)
        except BPRError:
            return set(wanted)
        baseline = chosen.pop("baseline", None)
        if baseline is not None and baseline.name in wanted:  # one network for everything takes the regions' place
            return {baseline.name, chosen["score"].name} if "score" in chosen else {baseline.name}
        return {bundle.name for bundle in chosen.values()}

    def onTicked(self, item) -> None:
        """Use a model, which takes the place of the other one for its purpose; or no longer use it."""
        if item.column() != USE or self._node is None:
            return
        bundle = self._bundles[item.row()]
        slots = {other.name: slot_of(other) for other in self._bundles}
        alone = DOMAIN in (slots[bundle.name], *(slots.get(name) for name in self._node.models))
        models = [name for name in self._node.models if name in slots and slots[name] != slots[bundle.name]]
        if item.checkState() == qt.Qt.Checked:
            models = [] if alone else models
            if bundle.name not in {b.name for b in choose_bundles([]).values()} or slots[bundle.name] == "baseline":
                models.append(bundle.name)
            if slots[bundle.name] not in ("score", "baseline"):
                models = [name for name in models if slots[name] != "baseline"]
        self._node.models = models
        self.show()

    def _chosen(self) -> Bundle | None:
        number = self._ui.modelsTable.currentRow()
        return self._bundles[number] if 0 <= number < len(self._bundles) else None

    def onSelected(self) -> None:
        """Show the chosen model's card."""
        bundle = self._chosen()
        own = bundle is not None and bundle.folder.parent.resolve() == user_models_dir().resolve()
        self._ui.removeModelButton.enabled = own
        self._ui.verifyModelButton.enabled = bundle is not None
        self._ui.modelCardText.plainText = card_text(bundle) if bundle else _("Choose a model to see its card.")

    def onImportZip(self, checked: bool = False) -> None:
        """Ask for a zip file and install it."""
        self.importFrom(qt.QFileDialog.getOpenFileName(None, _("Import a model"), "", _("Model (*.zip)")))

    def onImportFolder(self, checked: bool = False) -> None:
        """Ask for a folder and install it."""
        self.importFrom(qt.QFileDialog.getExistingDirectory(None, _("Import a model")))

    def importFrom(self, source: str) -> None:
        """Install a model from a zip file or a folder; nothing for an empty name."""
        if source:
            self._try(lambda: _("Installed: {name}").format(name=import_bundle(Path(source)).name))

    def onVerify(self, checked: bool = False) -> None:
        """Compare the chosen model's files with their checksums."""
        bundle = self._chosen()
        if bundle:
            self._try(lambda: bundle.verify() or _("{name}: all checksums are right.").format(name=bundle.name))

    def onRemove(self, checked: bool = False) -> None:
        """Delete the chosen model, after asking."""
        bundle = self._chosen()
        question = _("Delete the model {name} from your models folder?")
        if bundle and slicer.util.confirmYesNoDisplay(question.format(name=bundle.name)):
            self._try(lambda: remove_bundle(bundle.name) or _("Removed: {name}").format(name=bundle.name))

    def _try(self, action) -> None:
        try:
            self._ui.modelsMessageLabel.text = action()
        except (BPRError, OSError) as error:
            self._ui.modelsMessageLabel.text = str(error)
        message = self._ui.modelsMessageLabel.text
        self.refresh()
        self._ui.modelsMessageLabel.text = message

    def onOpenFolder(self, checked: bool = False) -> None:
        """Show the user's models folder in the file manager."""
        user_models_dir().mkdir(parents=True, exist_ok=True)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(user_models_dir())))


def slot_of(bundle: Bundle) -> str:
    """What the bundle is for, or "" when it is damaged."""
    try:
        return bundle.slot
    except BPRError:
        return ""


def purpose(bundle: Bundle) -> str:
    """What the bundle is for, in words. Raises BPRError when it is damaged."""
    if bundle.slot == DOMAIN:
        domain = bundle.facts["domain"]["name"]
        return _("{domain}; for {modality}").format(domain=domain, modality=bundle.facts["modality"])
    known = {"score": _("scores"), "baseline": _("everything at once")}
    return known.get(bundle.slot, bundle.slot)


def card_text(bundle: Bundle) -> str:
    """License, checksum of the weights, place and card of a model."""
    try:
        license_text = bundle.metadata.get("license", _("not stated"))
        sums = (bundle.folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        weights = next((line.split()[0] for line in sums if line.endswith("model.safetensors")), _("not stated"))
    except (BPRError, OSError) as error:
        return str(error)
    lines = [
        _("License: {license}").format(license=license_text),
        _("SHA-256 of the weights: {sum}").format(sum=weights),
        _("Folder: {folder}").format(folder=bundle.folder),
    ]
    return "\n".join([*lines, "", bundle.card])
