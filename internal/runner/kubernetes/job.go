package kubernetes

import (
	"encoding/json"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Annotations of a Job, which outlive this server with it.
const (
	noteBase   = "waybill.log-base"   // length of the log file before the unit
	noteOutput = "waybill.output"     // file in out/ that the unit's variables are in
	noteStop   = "waybill.stop"       // when somebody asked it to stop, RFC 3339
	noteEnd    = "waybill.end"        // how it ended, JSON of type ended
	noteHard   = container.LabelStop  // when it is killed at the latest
	container1 = "unit"               // name of the one container
	ownTmp     = "tmp"                // volumes
	ownWork    = "work"               //
	ownOut     = "out"                //
	ownFiles   = "files"              //
	maxFiles   = 256                  // files that a unit can be given
	maxSecret  = corev1.MaxSecretSize // bytes of a Secret
	maxMessage = 4096                 // bytes that a kubelet keeps of a termination message
	jobGrace   = 60 * time.Second     // so much later than its pod a Job is ended
	podGrace   = int64(10)            // seconds between TERM and KILL when others delete a pod
)

// objects are what is made in the cluster for a unit. The Secrets come first.
type objects struct {
	secrets []*corev1.Secret
	job     *batchv1.Job
}

var (
	unitName = container.NewPattern(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	envName  = container.NewPattern(`^[A-Za-z_.-][A-Za-z0-9_.-]*$`)
)

// build makes the objects of a unit. Errors are of kind invalid.
func (r *Runner) build(s runner.Spec, set Settings, now time.Time) (*objects, error) {
	o := &objects{}
	meta := maps.Clone(s.Meta)
	if meta == nil {
		meta = map[string]string{}
	}
	meta["instance"] = r.instance
	marks := labels(s.Unit, meta, r.config.Labels)
	notes := map[string]string{noteBase: strconv.FormatInt(container.LogSize(s.Log), 10)}
	maps.Copy(notes, r.config.Annotations)
	for k, v := range container.Labels(s.Unit, meta) {
		notes[k] = v
	}

	unit := corev1.Container{
		Name: container1, Image: set.Image, ImagePullPolicy: pullPolicies[set.PullPolicy()],
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		SecurityContext: &corev1.SecurityContext{
			ReadOnlyRootFilesystem:   to(!set.Writable),
			AllowPrivilegeEscalation: to(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	for _, c := range set.Capabilities() {
		unit.SecurityContext.Capabilities.Add = append(unit.SecurityContext.Capabilities.Add, corev1.Capability(strings.TrimPrefix(c, "CAP_")))
	}
	switch {
	case len(s.Args) > 0:
		unit.Command, unit.WorkingDir = literal(s.Args), container.WorkDir()
	case len(set.Args) > 0:
		unit.Args = literal(set.Args)
	}
	if set.Workdir != "" {
		unit.WorkingDir = set.Workdir
	}
	unit.Resources = resourcesOf(set)
	if out, ok := strings.CutPrefix(envOf(s.Env, "WAYBILL_OUTPUT"), path.Join(container.Home, container.Out)+"/"); ok && out != "" && !strings.Contains(out, "/") {
		// What the unit writes to this file is what the kubelet hands on.
		unit.TerminationMessagePath = path.Join(container.Home, container.Out, out)
		notes[noteOutput] = out
	}

	secret := func(kind string, t corev1.SecretType, data map[string][]byte) *corev1.Secret {
		x := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: s.Unit + "-" + kind, Namespace: r.namespace, Labels: marks},
			Type:       t, Immutable: to(true), Data: data,
		}
		o.secrets = append(o.secrets, x)
		return x
	}
	env, err := environment(s.Env)
	if err != nil {
		return nil, err
	}
	if len(env) > 0 {
		unit.EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret("env", corev1.SecretTypeOpaque, env).Name}}}}
	}
	volumes := []corev1.Volume{
		{Name: ownWork, VolumeSource: corev1.VolumeSource{EmptyDir: emptyDir("", set.Disk)}},
		{Name: ownOut, VolumeSource: corev1.VolumeSource{EmptyDir: emptyDir("", 0)}},
	}
	unit.VolumeMounts = []corev1.VolumeMount{
		{Name: ownWork, MountPath: container.WorkDir()},
		{Name: ownOut, MountPath: path.Join(container.Home, container.Out)},
	}
	if !set.Writable {
		tmp := set.TmpSize
		if tmp == 0 {
			tmp = 64 << 20
		}
		volumes = append(volumes, corev1.Volume{Name: ownTmp, VolumeSource: corev1.VolumeSource{EmptyDir: emptyDir(corev1.StorageMediumMemory, tmp)}})
		unit.VolumeMounts = append(unit.VolumeMounts, corev1.VolumeMount{Name: ownTmp, MountPath: "/tmp"})
	}
	files, err := filesOf(s.Dir)
	if err != nil {
		return nil, err
	}
	if len(files.data) > 0 {
		volumes = append(volumes, corev1.Volume{Name: ownFiles, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
			SecretName: secret("files", corev1.SecretTypeOpaque, files.data).Name, DefaultMode: to(int32(0o444)), Items: files.items,
		}}})
		for _, item := range files.items {
			unit.VolumeMounts = append(unit.VolumeMounts, corev1.VolumeMount{
				Name: ownFiles, MountPath: path.Join(container.Home, item.Path), SubPath: item.Path, ReadOnly: true,
			})
		}
	}
	pod := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: to(podGrace),
		AutomountServiceAccountToken: to(set.MountToken), EnableServiceLinks: to(false),
		ServiceAccountName: first(set.ServiceAccount, r.config.ServiceAccount),
		NodeSelector:       maps.Clone(r.config.NodeSelector), PriorityClassName: r.config.PriorityClass,
		SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Volumes:         volumes, Containers: []corev1.Container{unit},
	}
	if pod.NodeSelector == nil {
		pod.NodeSelector = map[string]string{}
	}
	maps.Copy(pod.NodeSelector, set.NodeSelector)
	if set.Platform != "" {
		parts := strings.Split(set.Platform, "/")
		pod.NodeSelector[corev1.LabelOSStable], pod.NodeSelector[corev1.LabelArchStable] = parts[0], parts[1]
	}
	for _, t := range append(slices.Clone(r.config.Tolerations), set.Tolerations...) {
		pod.Tolerations = append(pod.Tolerations, corev1.Toleration{Key: t.Key, Operator: corev1.TolerationOperator(t.Operator), Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
	}
	if r.config.RuntimeClass != "" {
		pod.RuntimeClassName = &r.config.RuntimeClass
	}
	if pod.SecurityContext.RunAsUser, pod.SecurityContext.RunAsGroup, err = userOf(set.User); err != nil {
		return nil, err
	}
	pod.SecurityContext.FSGroup = pod.SecurityContext.RunAsGroup
	if uid := pod.SecurityContext.RunAsUser; uid != nil && *uid != 0 {
		pod.SecurityContext.RunAsNonRoot = to(true)
	}
	for _, n := range r.config.ImagePullSecrets {
		pod.ImagePullSecrets = append(pod.ImagePullSecrets, corev1.LocalObjectReference{Name: n})
	}
	if set.PullSecret != "" {
		config, err := pullConfig(set.PullSecret, set.Image)
		if err != nil {
			return nil, err
		}
		x := secret("pull", corev1.SecretTypeDockerConfigJson, map[string][]byte{corev1.DockerConfigJsonKey: config})
		pod.ImagePullSecrets = append(pod.ImagePullSecrets, corev1.LocalObjectReference{Name: x.Name})
	}
	for _, x := range o.secrets {
		size := 0
		for _, v := range x.Data {
			size += len(v)
		}
		if size > maxSecret {
			return nil, tooMuch(strings.TrimPrefix(x.Name, s.Unit+"-"), size)
		}
	}
	o.job = &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: s.Unit, Namespace: r.namespace, Labels: marks, Annotations: notes},
		Spec: batchv1.JobSpec{
			Parallelism: to(int32(1)), Completions: to(int32(1)), BackoffLimit: to(int32(0)),
			TTLSecondsAfterFinished: to(int32(min(time.Duration(r.config.KeepFor)/time.Second, math.MaxInt32))),
			Template:                corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: marks, Annotations: r.config.Annotations}, Spec: pod},
		},
	}
	if !s.HardStop.IsZero() {
		// The kubelet ends the pod, whose end and log stay. The Job is the second net, for
		// a pod that no kubelet has taken.
		left := max(s.HardStop.Sub(now), 0)
		seconds := max(1, int64((left+time.Second-1)/time.Second))
		o.job.Spec.Template.Spec.ActiveDeadlineSeconds = &seconds
		o.job.Spec.ActiveDeadlineSeconds = to(seconds + int64(jobGrace/time.Second))
		notes[noteHard] = s.HardStop.UTC().Format(time.RFC3339Nano)
	}
	return o, nil
}

func to[T any](v T) *T { return &v }

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

var pullPolicies = map[string]corev1.PullPolicy{
	container.PullAlways: corev1.PullAlways, container.PullMissing: corev1.PullIfNotPresent, container.PullNever: corev1.PullNever,
}

// literal are arguments in which a kubelet finds nothing to put in: it replaces $(NAME),
// and makes one dollar of two.
func literal(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.ReplaceAll(a, "$", "$$")
	}
	return out
}

func resourcesOf(set Settings) corev1.ResourceRequirements {
	limits, requests := corev1.ResourceList{}, corev1.ResourceList{}
	if set.CPU > 0 {
		limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(set.CPU), resource.DecimalSI)
	}
	if set.Memory > 0 {
		limits[corev1.ResourceMemory] = *resource.NewQuantity(int64(set.Memory), resource.BinarySI)
	}
	if set.Disk > 0 {
		limits[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(set.Disk), resource.BinarySI)
	}
	maps.Copy(requests, limits)
	if q := set.Requests; q != nil {
		if q.CPU > 0 {
			requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(q.CPU), resource.DecimalSI)
		}
		if q.Memory > 0 {
			requests[corev1.ResourceMemory] = *resource.NewQuantity(int64(q.Memory), resource.BinarySI)
		}
	}
	return corev1.ResourceRequirements{Limits: limits, Requests: requests}
}

func emptyDir(medium corev1.StorageMedium, size container.Size) *corev1.EmptyDirVolumeSource {
	v := &corev1.EmptyDirVolumeSource{Medium: medium}
	if size > 0 {
		v.SizeLimit = resource.NewQuantity(int64(size), resource.BinarySI)
	}
	return v
}

func envOf(env []string, name string) string {
	value := ""
	for _, x := range env {
		if v, ok := strings.CutPrefix(x, name+"="); ok {
			value = v
		}
	}
	return value
}

func environment(env []string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, x := range env {
		key, value, _ := strings.Cut(x, "=")
		if !envName.MatchString(key) || len(key) > 253 {
			return nil, waybill.E(waybill.KindInvalid, "the variable %q cannot be given to a container of Kubernetes", key).
				WithHint("names are made of letters, digits and _-. and do not begin with a digit")
		}
		out[key] = []byte(value)
	}
	return out, nil
}

func tooMuch(kind string, size int) error {
	what, hint := "the environment", "pass large values as objects"
	if kind == "files" {
		what, hint = "the event and the input files", "have the unit fetch large inputs itself, such as from a bucket"
	}
	return waybill.E(waybill.KindInvalid, "%s of the unit take %d bytes; the kubernetes runner carries them in a Secret, whose limit is %d bytes", what, size, maxSecret).WithHint("%s", hint)
}

// inputs are the files that a unit is given, as a Secret has them.
type inputs struct {
	data  map[string][]byte
	items []corev1.KeyToPath
}

// filesOf reads a unit's home.
func filesOf(dir string) (inputs, error) {
	in := inputs{data: map[string][]byte{}}
	if dir == "" {
		return in, nil
	}
	size := 0
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == container.Out {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		if len(in.items) == maxFiles {
			return waybill.E(waybill.KindInvalid, "the unit has more than %d input files, the limit of the kubernetes runner", maxFiles)
		}
		if size += int(min(info.Size(), math.MaxInt32)); size > maxSecret {
			return tooMuch("files", size)
		}
		b, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		item := corev1.KeyToPath{Key: "f" + strconv.Itoa(len(in.items)), Path: filepath.ToSlash(rel), Mode: to(int32(0o444))}
		if info.Mode()&0o111 != 0 {
			item.Mode = to(int32(0o555))
		}
		in.data[item.Key], in.items = b, append(in.items, item)
		return nil
	})
	if err != nil && waybill.KindOf(err) == waybill.KindInternal {
		err = waybill.E(waybill.KindUnavailable, "read the files of the unit: %w", err)
	}
	return in, err
}

// pullConfig is what the kubelet reads credentials from.
func pullConfig(secret, image string) ([]byte, error) {
	ref, err := name.ParseReference(image, name.WithDefaultTag("latest"))
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "image %q: %w", image, err)
	}
	host := ref.Context().RegistryStr()
	auth, err := container.Credentials(secret, host)
	if err != nil {
		return nil, err
	}
	key := host
	if host == name.DefaultRegistry {
		key = "https://index.docker.io/v1/"
	}
	return json.Marshal(map[string]any{"auths": map[string]any{key: auth}})
}
