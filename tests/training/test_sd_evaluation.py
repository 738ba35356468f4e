"""The table of CAIN-SD: what it counts and what its lines mean, on a clip made by code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.cain_sd import CAIN, CAINSD
from models.cain_sd.cost import paper_flops
from models.cain_sd.light_sr import LightSizes, LightSR
from models.cain_sd.sd_finder import SDFinder
from pipeline.errors import WeightsUnusable
from pipeline.plan.adaptive import fitted_grid
from pipeline.training import sd_evaluation as evaluation
from pipeline.training.sd_evaluation import Table
from tests.training.clips_factory import sliding, write_clip

SIDE = 96


@pytest.fixture(scope="module")
def network() -> CAINSD:
    torch.manual_seed(0)
    cain = CAIN(channels=16, rcabs=1, groups=2, shuffle=2, reduction=4)
    return CAINSD(cain, LightSR(LightSizes(16)), SDFinder(3, 2, detail=True)).eval()


@pytest.fixture(scope="module")
def found(network: CAINSD, tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "slide.mkv", sliding(6, SIDE, speed=2))
    lines = evaluation.settings(network, [1e6], (48, 64))
    return evaluation.evaluate(folder, network, lines, plain=network.cain)


def test_full_depth_is_the_plain_network_and_all_of_its_flops(found: Table, network: CAINSD) -> None:
    rows = {(row.setting, row.patch, row.price): row for row in found.rows}
    plain, full = rows["plain CAIN", "whole", 0.0], rows["full depth", "whole", 0.0]
    assert full.psnr == pytest.approx(plain.psnr, abs=1e-3)
    assert full.share == pytest.approx(1.0)
    assert full.gflops == pytest.approx(network.flops_per_pixel()[0][1] * SIDE**2 / 1e9)
    assert full.paper_share == pytest.approx(full.gflops * 1e9 / paper_flops(SIDE, SIDE, 2, network.cain.sizes))
    assert rows["exit 1", "whole", 0.0].share < 1
    assert rows["scale 4", "whole", 0.0].share < rows["scale 2", "whole", 0.0].share < 1


def test_overlaps_count_twice_and_a_high_price_buys_the_cheapest_choice(found: Table, network: CAINSD) -> None:
    rows = {(row.setting, row.patch, row.price): row for row in found.rows}
    cheapest = rows["CAIN-SD", "48", 1e6]
    area = sum(patch.height * patch.width for patch in fitted_grid(SIDE, SIDE, 48, 16, 8))
    assert area > SIDE**2
    spent = network.flops_per_pixel()[2][0] * area + network.finder_flops(SIDE, SIDE)
    assert cheapest.gflops * 1e9 == pytest.approx(spent)
    assert all(row.share >= cheapest.share for row in found.rows if row.patch == "48")


def test_the_table_and_its_json_hold_every_line(found: Table, tmp_path: Path) -> None:
    rows = found.rows
    text = evaluation.table(found)
    assert len(text.splitlines()) == 1 + len(rows)
    evaluation.write_json(tmp_path / "out.json", found, "made")
    document = json.loads((tmp_path / "out.json").read_text())
    assert [row["setting"] for row in document["rows"]] == [row.setting for row in rows]
    assert len(document["clips"]["slide.mkv"]) == len(rows)


def test_weights_of_something_else_are_refused() -> None:
    with pytest.raises(WeightsUnusable, match="not CAIN-SD's weights"):
        evaluation.load("cain-compact")
