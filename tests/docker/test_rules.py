"""The alert rules by promtool, on made-up figures; `test_dashboard.py` has real ones."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml


def test_prometheus_takes_the_configuration_and_the_rules(docker, tool):
    done = tool("promtool", "check", "config", docker / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stderr
    assert "1 rule files found" in done.stdout


def test_alerts_fire_when_they_should_and_not_before(docker, tool):
    done = tool("promtool", "test", "rules", docker / "prometheus" / "rules_test.yml")
    assert done.returncode == 0, done.stderr


def rules(docker, key: str) -> set[str]:
    groups = yaml.safe_load((docker / "prometheus" / "rules.yml").read_text())["groups"]
    return {rule[key] for group in groups for rule in group["rules"] if key in rule}


def test_every_alert_is_tried(docker):
    tests = yaml.safe_load((docker / "prometheus" / "rules_test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert fired == rules(docker, "alert")


CHANGES = {
    "a pause that is too short": ("for: 1m", "for: 1h"),
    "another job": ('up{job="cytoserve"} == 0', "up == 0"),
    "callers that gave up count": (', reason!="CANCELED"', ""),
    "idle models count as stalled": (
        "> 0\n          and sum without",
        ">= 0\n          and sum without",
    ),
    "a limit that is never reached": ("ratio_rate2m > 1", "ratio_rate2m > 1000"),
    "the pipeline's own queue": (
        "nv_inference_request_duration_us",
        "nv_inference_queue_duration_us",
    ),
    "memory of no GPU": ("nv_gpu_memory_used_bytes", "nv_gpu_memory_bytes"),
    "memory of another machine": ("nv_cpu_memory_used_bytes", "nv_cpu_memory_bytes"),
}


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES)
def test_a_wrong_rule_would_be_found(old, new, docker, tool, tmp_path):
    shutil.copytree(docker / "prometheus", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "rules.yml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    done = tool("promtool", "test", "rules", tmp_path / "rules_test.yml")
    assert done.returncode == 1
    assert "FAILED" in done.stdout + done.stderr


def test_every_alert_says_what_to_do(docker):
    for each in rules(docker, "alert"):
        assert re.fullmatch(r"Cytoserve[A-Z][A-Za-z]+", each)
    groups = yaml.safe_load((docker / "prometheus" / "rules.yml").read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    for rule in alerts:
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in ("critical", "warning")
