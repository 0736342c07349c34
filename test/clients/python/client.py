"""What programs do with Kubernetes' Python client. Says what it saw as JSON lines: [what, value]."""

import datetime
import json
import os
import sys
import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

NAMESPACE = "python"


def say(what, value):
    print(json.dumps([what, value], default=str), flush=True)


def failure(call, *args, **kwargs):
    """Status, reason and message of what a call is refused with."""
    try:
        call(*args, **kwargs)
    except ApiException as e:
        body = json.loads(e.body)
        return [e.status, body["reason"], body["message"]]
    return None


def typed(core, apps, api):
    seen = []
    everything = threading.Event()

    def look():
        for event in watch.Watch().stream(
            core.list_namespaced_config_map, NAMESPACE, label_selector="made=here", timeout_seconds=60
        ):
            seen.append([event["type"], event["object"].metadata.name])
            if event["type"] == "DELETED":
                break
        everything.set()

    threading.Thread(target=look, daemon=True).start()
    meta = client.V1ObjectMeta(name="one", labels={"made": "here"})
    made = core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta, data={"a": "1"}))
    say("created", isinstance(made.metadata.creation_timestamp, datetime.datetime))
    say("merged", core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"b": "2"}}).data)
    json_patch = [{"op": "remove", "path": "/data/a"}]
    say("patched", core.patch_namespaced_config_map("one", NAMESPACE, json_patch).data)
    say("conflict", failure(core.replace_namespaced_config_map, "one", NAMESPACE, made))
    say("twice", failure(core.create_namespaced_config_map, NAMESPACE, client.V1ConfigMap(metadata=meta)))
    say("absent", failure(core.read_namespaced_pod, "nobody", NAMESPACE))
    core.delete_namespaced_config_map("one", NAMESPACE)
    everything.wait(60)
    say("watched", seen)

    utils.create_from_dict(
        api,
        {
            "apiVersion": "v1",
            "kind": "List",
            "items": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": "web"},
                    "spec": {
                        "replicas": 3,
                        "selector": {"matchLabels": {"app": "web"}},
                        "template": {
                            "metadata": {"labels": {"app": "web"}},
                            "spec": {"containers": [{"name": "web", "image": "registry.example/web:1"}]},
                        },
                    },
                },
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": "web"},
                    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
                },
            ],
        },
        namespace=NAMESPACE,
    )
    for event in watch.Watch().stream(apps.list_namespaced_deployment, NAMESPACE, timeout_seconds=60):
        if event["object"].status.replicas == 3:
            break
    pages = []
    token = None
    while token != "":
        page = core.list_namespaced_pod(NAMESPACE, label_selector="app in (web)", limit=2, _continue=token)
        pages.append(len(page.items))
        token = page.metadata._continue or ""
    say("pages", pages)
    say("scaled", apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 1}}).spec.replicas)
    say("port", core.read_namespaced_service("web", NAMESPACE).spec.ports[0].target_port)
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(verb="list", resource="pods")
        )
    )
    say("allowed", client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed)


def untyped(api):
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    crds = client.ApiextensionsV1Api()
    crds.create_custom_resource_definition(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "things.python.example.com"},
            "spec": {"group": "python.example.com", "scope": "Namespaced", "names": names, "versions": [version]},
        }
    )
    for event in watch.Watch().stream(crds.list_custom_resource_definition, timeout_seconds=60):
        conditions = event["object"].status.conditions or []
        if any(c.type == "Established" and c.status == "True" for c in conditions):
            break
    things = dynamic.DynamicClient(api).resources.get(api_version="python.example.com/v1", kind="Thing")
    body = {
        "apiVersion": "python.example.com/v1",
        "kind": "Thing",
        "metadata": {"name": "t", "namespace": NAMESPACE},
        "spec": {"size": 1},
    }
    applied = things.server_side_apply(body=body, namespace=NAMESPACE, field_manager="python")
    say("applied", applied.spec.size)
    patch = {"spec": {"size": 2}}
    merged = things.patch(name="t", namespace=NAMESPACE, body=patch, content_type="application/merge-patch+json")
    say("dynamic", merged.spec.size)
    wrong = {**body, "spec": {"size": "large"}}
    custom = client.CustomObjectsApi()
    args = ("python.example.com", "v1", NAMESPACE, "things")
    say("wrong", failure(custom.create_namespaced_custom_object, *args, wrong))
    say("listed", [t["metadata"]["name"] for t in custom.list_namespaced_custom_object(*args)["items"]])


def leads():
    started = threading.Event()
    lease = electionconfig.Config(
        LeaseLock("leader", NAMESPACE, "me"),
        lease_duration=15,
        renew_deadline=10,
        retry_period=2,
        onstarted_leading=started.set,
        onstopped_leading=None,
    )
    threading.Thread(target=leaderelection.LeaderElection(lease).run, daemon=True).start()
    say("leads", started.wait(60))


def main():
    config.load_kube_config()
    api = client.ApiClient()
    core = client.CoreV1Api()
    say("version", client.VersionApi().get_code().git_version)
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    typed(core, client.AppsV1Api(), api)
    untyped(api)
    leads()
    core.delete_namespace(NAMESPACE)
    say("done", True)
    sys.stdout.flush()
    # The leader goes on in its thread for ever.
    os._exit(0)


main()
