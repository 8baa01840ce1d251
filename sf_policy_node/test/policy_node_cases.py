"""The policy node under test with a scripted policy, an arm, and its received messages."""

from motion_cases import sim_arm
from node_cases import CONTRACT_PARAMETER, FakeArm, ScriptedPolicy
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from sf_msgs.action import RunInstruction
from sf_msgs.msg import ActionChunk, PolicyStatus
from sf_policy_node.nodes.policy_node import PolicyNode

TOPICS = sim_arm().topics


class Policy:
    """The node, the arm, and an operator who sends instructions."""

    def __init__(self, graph, policy=None, *parameters):
        self.graph, self.policy = graph, policy or ScriptedPolicy()
        self.chunks = graph.listen(ActionChunk, TOPICS.action_chunk)
        self.statuses = graph.listen(PolicyStatus, TOPICS.policy_status, 50)
        self.node = graph.add(
            PolicyNode(
                lambda *_: self.policy, parameter_overrides=[CONTRACT_PARAMETER, *parameters]
            )
        )
        self.arm = FakeArm(graph)
        self.until(lambda: self.statuses and min(self.status.camera_age_s) >= 0, "images")

    @property
    def status(self):
        return self.statuses[-1]

    def until(self, condition, what):
        return self.graph.until(condition, what, each=self.arm)

    def say(self, text, **qos):
        publisher = self.graph.publisher(String, TOPICS.instruction, QoSProfile(depth=1, **qos))
        publisher.publish(String(data=text))

    def start(self, instruction, timeout_s=0.0):
        """Send a goal; return the handle and the feedback list."""
        client, feedback = ActionClient(self.graph.peer, RunInstruction, "run_instruction"), []
        self.until(client.server_is_ready, "the action server")
        goal = RunInstruction.Goal(instruction=instruction, timeout_s=timeout_s)
        future = client.send_goal_async(
            goal, feedback_callback=lambda message: feedback.append(message.feedback)
        )
        self.until(future.done, "the answer")
        return future.result(), feedback

    def result(self, handle):
        future = handle.get_result_async()
        self.until(future.done, "the result")
        return future.result()

    def call(self, kind, name, **request):
        """Return the response of one of the node's services."""
        client = self.graph.peer.create_client(kind, f"/policy_node/{name}")
        self.until(client.service_is_ready, f"the service {name}")
        future = client.call_async(kind.Request(**request))
        self.until(future.done, f"the answer of {name}")
        return future.result()
