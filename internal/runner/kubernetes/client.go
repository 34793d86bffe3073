package kubernetes

import (
	"context"
	"io"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// The typed clients of client-go bring every group of the API with them, 13 MB of the
// program. These know the four resources that the runner uses, over the same requests.

// api are the resources of a cluster.
type api struct {
	batch, core rest.Interface
	idle        func() // closes connections that nobody uses
}

var (
	known  = runtime.NewScheme()
	params = runtime.NewParameterCodec(known)
)

func init() {
	for _, add := range []func(*runtime.Scheme) error{batchv1.AddToScheme, corev1.AddToScheme} {
		if err := add(known); err != nil {
			panic(err) // the same every time
		}
	}
}

func newAPI(c *rest.Config) (*api, error) {
	http, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, err
	}
	one := func(root string, gv schema.GroupVersion) (rest.Interface, error) {
		x := rest.CopyConfig(c)
		x.APIPath, x.GroupVersion = root, &gv
		x.NegotiatedSerializer = serializer.NewCodecFactory(known).WithoutConversion()
		return rest.RESTClientForConfigAndClient(x, http)
	}
	batch, err := one("/apis", batchv1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	core, err := one("/api", corev1.SchemeGroupVersion)
	return &api{batch: batch, core: core, idle: func() { utilnet.CloseIdleConnectionsFor(http.Transport) }}, err
}

func (a *api) Jobs(namespace string) objectsOf[batchv1.Job, batchv1.JobList] {
	return objectsOf[batchv1.Job, batchv1.JobList]{a.batch, namespace, "jobs"}
}

func (a *api) Pods(namespace string) objectsOf[corev1.Pod, corev1.PodList] {
	return objectsOf[corev1.Pod, corev1.PodList]{a.core, namespace, "pods"}
}

func (a *api) Secrets(namespace string) objectsOf[corev1.Secret, corev1.SecretList] {
	return objectsOf[corev1.Secret, corev1.SecretList]{a.core, namespace, "secrets"}
}

func (a *api) Events(namespace string) objectsOf[corev1.Event, corev1.EventList] {
	return objectsOf[corev1.Event, corev1.EventList]{a.core, namespace, "events"}
}

// Log streams the log of a pod.
func (a *api) Log(ctx context.Context, namespace, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
	return a.core.Get().Namespace(namespace).Resource("pods").Name(pod).SubResource("log").VersionedParams(o, params).Stream(ctx)
}

// objectsOf is one kind of object in a namespace. T and L are structs of the API whose
// pointers are runtime.Objects.
type objectsOf[T, L any] struct {
	client          rest.Interface
	namespace, name string
}

func object(v any) runtime.Object { return v.(runtime.Object) }

func (r objectsOf[T, L]) Get(ctx context.Context, name string, o metav1.GetOptions) (*T, error) {
	out := new(T)
	err := r.client.Get().Namespace(r.namespace).Resource(r.name).Name(name).VersionedParams(&o, params).Do(ctx).Into(object(out))
	return out, err
}

func (r objectsOf[T, L]) List(ctx context.Context, o metav1.ListOptions) (*L, error) {
	out := new(L)
	err := r.client.Get().Namespace(r.namespace).Resource(r.name).VersionedParams(&o, params).Do(ctx).Into(object(out))
	return out, err
}

func (r objectsOf[T, L]) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	q := r.client.Get().Namespace(r.namespace).Resource(r.name).VersionedParams(&o, params)
	if o.TimeoutSeconds != nil {
		q = q.Timeout(time.Duration(*o.TimeoutSeconds) * time.Second)
	}
	return q.Watch(ctx)
}

func (r objectsOf[T, L]) Create(ctx context.Context, x *T, o metav1.CreateOptions) (*T, error) {
	out := new(T)
	err := r.client.Post().Namespace(r.namespace).Resource(r.name).VersionedParams(&o, params).Body(object(x)).Do(ctx).Into(object(out))
	return out, err
}

func (r objectsOf[T, L]) Patch(ctx context.Context, name string, t types.PatchType, body []byte, o metav1.PatchOptions) (*T, error) {
	out := new(T)
	err := r.client.Patch(t).Namespace(r.namespace).Resource(r.name).Name(name).VersionedParams(&o, params).Body(body).Do(ctx).Into(object(out))
	return out, err
}

func (r objectsOf[T, L]) Delete(ctx context.Context, name string, o metav1.DeleteOptions) error {
	return r.client.Delete().Namespace(r.namespace).Resource(r.name).Name(name).Body(&o).Do(ctx).Error()
}
