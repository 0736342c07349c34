// An operator as people write them with controller-runtime: leader election, cached reads, finalizers, server-side apply
// of what it owns, status and events. Each Site (sites.example.com/v1) gets a Deployment of the same name.
package main

import (
	"context"
	"fmt"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apps "k8s.io/client-go/applyconfigurations/apps/v1"
	core "k8s.io/client-go/applyconfigurations/core/v1"
	meta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metrics "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const finalizer = "example.com/site"

var siteKind = schema.GroupVersionKind{Group: "sites.example.com", Version: "v1", Kind: "Site"}

type sites struct {
	client.Client
	recorder events.EventRecorder
}

func (s *sites) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	site := &unstructured.Unstructured{}
	site.SetGroupVersionKind(siteKind)
	if err := s.Get(ctx, req.NamespacedName, site); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if site.GetDeletionTimestamp() != nil {
		s.recorder.Eventf(site, nil, "Normal", "Closed", "Close", "closed")
		controllerutil.RemoveFinalizer(site, finalizer)
		return ctrl.Result{}, s.Update(ctx, site)
	}
	if controllerutil.AddFinalizer(site, finalizer) {
		if err := s.Update(ctx, site); err != nil {
			return ctrl.Result{}, err
		}
	}
	image, _, _ := unstructured.NestedString(site.Object, "spec", "image")
	replicas, _, _ := unstructured.NestedInt64(site.Object, "spec", "replicas")
	labels := map[string]string{"site": req.Name}
	wanted := apps.Deployment(req.Name, req.Namespace).
		WithOwnerReferences(meta.OwnerReference().WithAPIVersion(siteKind.GroupVersion().String()).WithKind(siteKind.Kind).
			WithName(req.Name).WithUID(site.GetUID()).WithController(true).WithBlockOwnerDeletion(true)).
		WithSpec(apps.DeploymentSpec().WithReplicas(int32(replicas)).
			WithSelector(meta.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(core.PodTemplateSpec().WithLabels(labels).
				WithSpec(core.PodSpec().WithContainers(core.Container().WithName("web").WithImage(image)))))
	if err := s.Apply(ctx, wanted, client.FieldOwner("site-operator"), client.ForceOwnership); err != nil {
		return ctrl.Result{}, err
	}
	var made appsv1.Deployment
	if err := s.Get(ctx, req.NamespacedName, &made); err != nil {
		// The cache has not seen it yet; its arrival brings us back.
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := site.DeepCopy()
	if err := unstructured.SetNestedField(site.Object, int64(made.Status.Replicas), "status", "replicas"); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, s.Status().Patch(ctx, site, client.MergeFrom(before))
}

func run() error {
	ctrl.SetLogger(zap.New())
	mgr, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{
		LeaderElection:                true,
		LeaderElectionID:              "site-operator.example.com",
		LeaderElectionNamespace:       "default",
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       metrics.Options{BindAddress: "0"},
	})
	if err != nil {
		return err
	}
	site := &unstructured.Unstructured{}
	site.SetGroupVersionKind(siteKind)
	reconciler := &sites{mgr.GetClient(), mgr.GetEventRecorder("site-operator")}
	if err := ctrl.NewControllerManagedBy(mgr).For(site).Owns(&appsv1.Deployment{}).Complete(reconciler); err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
