"""Tests of judging a controller from its topics, publishers and reports."""

import pytest

from sf_policy_node.controller.presence import ControllerPresence
from sf_policy_node.controller.requirements import limiter_remarks

TOPIC, NAME = "/left/arm_controller/joint_trajectory", "/left/arm_controller"
FIT = {"joints": ["a"], "interpolation_method": "splines"}


@pytest.fixture
def presence():
    presence = ControllerPresence(TOPIC, ("a",), {"a": 0.2})
    presence.saw_topic({"1": NAME}, [])
    return presence


def test_a_missing_controller_is_named_with_the_cure():
    presence = ControllerPresence(TOPIC, ("a",), {})
    assert f"no controller subscribes to {TOPIC}: load and activate" in presence.refusal
    assert presence.saw_topic({}, []) == "" and presence.summary["controller"] == "none"


def test_a_recorder_on_the_topic_is_not_mistaken_for_the_controller(presence):
    assert presence.saw_topic({"0": "/recorder", "1": NAME}, []) == ""
    assert presence.name == NAME and not presence.refusal
    assert presence.saw_topic({"0": "/recorder"}, []) == f"{NAME} has left {TOPIC}"
    assert "no controller subscribes" in presence.refusal


def test_the_subscriber_of_a_topic_with_another_name_is_the_controller():
    presence = ControllerPresence("/commands", ("a",), {})
    presence.saw_topic({"1": "/driver"}, [])
    assert presence.name == "/driver" and not presence.refusal


def test_a_new_subscription_is_a_restart_even_beside_the_old_one(presence):
    presence.saw_parameters({**FIT, "interpolation_method": "none"})
    assert "interpolation_method" in presence.refusal
    assert presence.saw_topic({"0": NAME, "1": NAME}, []) == f"{NAME} was restarted"
    assert not presence.refusal  # until its parameters are known
    assert presence.saw_topic({"0": NAME}, []) == ""
    assert presence.saw_topic({"5": NAME}, []) == f"{NAME} was restarted"


def test_an_unfit_controller_is_refused_and_a_fit_one_is_not(presence):
    presence.saw_parameters({**FIT, "joints": ["b"]})
    assert presence.refusal.startswith(f"{NAME}: joints are b, and the contract commands a")
    presence.saw_parameters(FIT)
    assert not presence.refusal
    assert presence.summary["controller version"] == "5.0 to 6.7 (Kilted)"


def test_deactivation_ends_the_motion_once_and_refuses_the_next_one(presence):
    assert presence.saw_state("active") == "" and not presence.refusal
    assert presence.saw_state("inactive") == f"{NAME} was deactivated"
    assert presence.saw_state("inactive") == ""
    assert presence.refusal == f"{NAME} is inactive: activate it"
    assert presence.saw_state("active") == "" and not presence.refusal


def test_a_late_node_name_is_no_restart():
    presence = ControllerPresence(TOPIC, ("a",), {})
    nameless = "_NODE_NAMESPACE_UNKNOWN_/_NODE_NAME_UNKNOWN_"
    assert presence.saw_topic({"1": nameless}, []) == "" and not presence.refusal
    assert presence.saw_topic({"2": NAME}, []) == "" and presence.name == NAME
    assert presence.saw_topic({"3": NAME}, []) == f"{NAME} was restarted"


def test_subscribers_from_before_the_controller_are_no_loss():
    presence = ControllerPresence(TOPIC, ("a",), {})
    assert presence.saw_topic({"1": "/markers"}, []) == ""
    assert presence.saw_topic({"1": "/markers", "2": "/recorder"}, []) == ""
    assert presence.saw_topic({"1": "/markers", "2": "/recorder", "3": NAME}, []) == ""
    assert presence.name == NAME and not presence.refusal
    assert presence.saw_topic({"1": "/markers", "3": NAME}, []) == ""
    assert presence.saw_topic({"1": "/markers"}, []) == f"{NAME} has left {TOPIC}"


def test_a_recorder_that_joins_a_controller_of_another_name_is_no_loss():
    presence = ControllerPresence("/commands", ("a",), {})
    presence.saw_topic({"1": "/driver"}, [])
    assert presence.saw_topic({"1": "/driver", "2": "/recorder"}, []) == ""
    assert not presence.refusal


def test_missing_reports_count_only_after_a_first_report(presence):
    assert presence.check_silence(100.0, 0.0) == ""
    presence.saw_report(100.0)
    assert presence.check_silence(100.4, 0.4) == "" and not presence.is_overdue
    assert presence.summary["controller state"] == "active"
    assert presence.check_silence(100.6, 0.6) == "" and presence.is_overdue
    assert "no longer reports its state" in presence.check_silence(100.66, 0.66)
    assert presence.check_silence(100.7, 0.7) == "" and "activate it" in presence.refusal
    assert not presence.is_overdue
    presence.saw_report(101.0)
    assert not presence.refusal


def test_a_stalled_process_reads_waiting_reports_before_it_reports_a_loss(presence):
    presence.saw_report(100.0)
    assert presence.check_silence(102.0, 2.0) == "" and presence.is_overdue
    presence.saw_report(102.01)
    assert not presence.is_overdue and presence.check_silence(102.1, 2.1) == ""
    assert not presence.refusal


def test_a_paused_or_slow_simulation_is_no_loss(presence):
    presence.saw_report(100.0)
    for steady in range(60):
        assert presence.check_silence(100.3, float(steady)) == "" and not presence.is_overdue


def test_a_second_publisher_is_named(presence):
    presence.saw_topic({"1": NAME}, ["/rqt", "/rqt"])
    (remark,) = presence.remarks
    assert remark.startswith(f"/rqt publishes on {TOPIC} too") and not presence.refusal


@pytest.mark.parametrize(("top", "tight"), [(2.0, True), (2.4, True), (2.5, False), (9.0, False)])
def test_the_limiter_needs_a_margin_above_the_contracts_velocity(top, tight):
    urdf = (
        f'<robot><joint name="a"><limit velocity="{top}"/></joint><joint name="b"/>'
        '<joint name="c"><limit velocity="0.1"/></joint></robot>'
    )
    found = limiter_remarks(urdf, {"a": 2.0})
    assert bool(found) is tight
    assert not tight or f"a (2 of {top:g}) is more than 80 % of the URDF's" in found[0]


@pytest.mark.parametrize(("speed", "refused"), [(1.0, False), (0.5, True), (0.0, False)])
def test_a_controller_that_reports_a_lower_speed_is_refused_with_the_cure(presence, speed, refused):
    presence.saw_report(1.0, speed)
    assert ("at 50% of their speed: set the speed scaling" in presence.refusal) is refused
    presence.saw_report(1.1, 1.0)
    assert not presence.refusal
