// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const runningRecord = `{"ebpm.io/status":{"event":"running","time":"2026-03-01T12:00:11Z","kernel":"6.12.9","programs":[{"name":"on_fork","section":"tp/sched/sched_process_fork"}],"lost":{"events":17},"handover":{"role":"current"}}}`

const attachedRecord = `{"ebpm.io/status":{"event":"attached","time":"2026-03-01T12:00:00Z","kernel":"6.12.9","programs":[{"name":"on_fork","section":"tp/sched/sched_process_fork"}]}}`

// stampLine returns a log line as the API server gives it.
func stampLine(second float64, text string) string {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(second * float64(time.Second)))
	return at.Format(time.RFC3339Nano) + " " + text + "\n"
}

// logsOf serves logs by Pod; previous ones by "Pod/previous".
func (c *testCluster) logsOf(logs map[string]string) {
	c.openLog = func(_ context.Context, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
		if o.Previous {
			pod += "/previous"
		}
		text, ok := logs[pod]
		if !ok {
			return nil, apierrors.NewBadRequest("no such log")
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}
}

func (c *testCluster) podNames(t *testing.T) map[string]string {
	t.Helper()
	pods, err := c.pods(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, p := range pods {
		names[p.Spec.NodeName] = p.Name
	}
	return names
}

func TestLogsMerge(t *testing.T) {
	c := newTestCluster(t, "node1", "node2")
	c.mustDeploy(t, "1.0.0")
	pods := c.podNames(t)
	c.logsOf(map[string]string{
		pods["node1"]: stampLine(1, attachedRecord) + stampLine(2, `{"pid":1}`) + stampLine(5, `{"pid":4}`),
		pods["node2"]: stampLine(1.5, attachedRecord) + stampLine(3, `{"pid":2}`) + stampLine(4, "a word about a map") + stampLine(4.5, ""),
	})
	var out bytes.Buffer
	if err := c.Logs(t.Context(), "opensnoop", LogOptions{}, NewJSONLogPrinter(&out, false)); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"node":"node1","pod":%[1]q,"revision":1,"time":"2026-03-01T12:00:02Z","event":{"pid":1}}
{"node":"node2","pod":%[2]q,"revision":1,"time":"2026-03-01T12:00:03Z","event":{"pid":2}}
{"node":"node2","pod":%[2]q,"revision":1,"time":"2026-03-01T12:00:04Z","notice":"a word about a map"}
{"node":"node1","pod":%[1]q,"revision":1,"time":"2026-03-01T12:00:05Z","event":{"pid":4}}
`, pods["node1"], pods["node2"])
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

func TestLogsSayWhatIsMissing(t *testing.T) {
	events := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(stampLine(float64(10+i), fmt.Sprintf(`{"pid":%d}`, i)))
		}
		return b.String()
	}
	tests := []struct {
		name   string
		status *corev1.ContainerStatus
		logs   string // of the current run
		before string // of the one before
		want   []string
	}{
		{name: "from the start", logs: stampLine(1, attachedRecord) + events(1), want: []string{`{"pid":0}`}},
		// Events and records come by two pipes.
		{name: "an event before the record", logs: stampLine(1, `{"pid":9}`) + stampLine(1.001, attachedRecord), want: []string{`{"pid":9}`}},
		{name: "rotated, few lines", logs: events(2), want: []string{"earlier lines are gone", `{"pid":0}`, `{"pid":1}`}},
		{name: "rotated, among many events", logs: events(1) + stampLine(11.5, runningRecord), want: []string{"earlier lines are gone", `{"pid":0}`}},
		{name: "it never attached", logs: stampLine(1, "no BTF"), want: []string{"no BTF"}},
		{
			name: "restarted", status: &corev1.ContainerStatus{RestartCount: 1, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
			before: stampLine(1, "no BTF"), logs: stampLine(5, attachedRecord) + events(1), want: []string{"no BTF", `{"pid":0}`},
		},
		{
			name: "restarted often", status: &corev1.ContainerStatus{RestartCount: 3, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
			before: stampLine(1, "no BTF"), logs: stampLine(5, attachedRecord), want: []string{"restarted 3 times; only the log of the last two runs are kept", "no BTF"},
		},
		// Its last run's log is the current one; the one before would be it again.
		{name: "waits for its next run", status: crashing(1, "x"), before: stampLine(1, "no BTF"), logs: stampLine(1, "no BTF"), want: []string{"only the log of the last run is kept", "no BTF"}},
		{
			name: "not started", status: &corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no such image"}}},
			want: []string{"not started (failed): ErrImagePull: no such image"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, "node1")
			c.mustDeploy(t, "1.0.0")
			pods, err := c.pods(t.Context(), "opensnoop")
			if err != nil {
				t.Fatal(err)
			}
			setRunner(&pods[0], tt.status)
			if err := c.fake.Tracker().Update(podsResource, &pods[0], "ebpm"); err != nil {
				t.Fatal(err)
			}
			c.logsOf(map[string]string{pods[0].Name: tt.logs, pods[0].Name + "/previous": tt.before})
			var got []string
			err = c.Logs(t.Context(), "opensnoop", LogOptions{}, func(e LogEntry) error {
				got = append(got, e.Notice+string(e.Event))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) {
					t.Errorf("line %d: got %q, want %q", i, got[i], tt.want[i])
				}
			}
		})
	}
}

// A log stream that breaks is taken up where it was; a Pod that starts later is
// followed too; the log of one that is deleted is read to its end.
func TestLogsFollow(t *testing.T) {
	c := newTestCluster(t, "node1")
	c.mustDeploy(t, "1.0.0")
	first := c.podNames(t)["node1"]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	opened := map[string]int{}
	c.openLog = func(ctx context.Context, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		if !o.Follow {
			return io.NopCloser(strings.NewReader(stampLine(1, attachedRecord) + stampLine(2, `{"pid":1}`))), nil
		}
		opened[pod]++
		text := stampLine(1, attachedRecord) + stampLine(2, `{"pid":1}`)
		switch {
		case pod == first && opened[pod] == 1:
			return io.NopCloser(io.MultiReader(strings.NewReader(text+stampLine(3, `{"pid":2}`)), broken{})), nil
		case pod == first:
			text += stampLine(3, `{"pid":2}`) + stampLine(3, `{"pid":3}`)
		default:
			text = stampLine(9, attachedRecord) + stampLine(10, `{"pid":4}`)
		}
		if opened[pod] > 2 {
			text = ""
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}
	var got []string
	err := c.Logs(ctx, "opensnoop", LogOptions{Follow: true}, func(e LogEntry) error {
		if e.Event == nil {
			return nil
		}
		got = append(got, fmt.Sprintf("%d %s", e.Revision, e.Event))
		switch len(got) {
		case 3:
			c.mustDeploy(t, "1.1.0")
		case 4:
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{`1 {"pid":1}`, `1 {"pid":2}`, `1 {"pid":3}`, `2 {"pid":4}`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A log that breaks off, or cannot be read at all, hides no other; what was read
// of it is printed. Whoever follows is told, and it is taken up again.
func TestLogsOfBrokenStream(t *testing.T) {
	for _, follow := range []bool{false, true} {
		c := newTestCluster(t, "node1", "node2", "node3")
		c.mustDeploy(t, "1.0.0")
		pods := c.podNames(t)
		c.openLog = func(ctx context.Context, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
			whole := stampLine(1, attachedRecord) + stampLine(2, `{"node":"`+pod+`"}`)
			switch {
			case pod == pods["node1"] && !o.Follow:
				return io.NopCloser(io.MultiReader(strings.NewReader(stampLine(0.5, `{"early":1}`)), broken{})), nil
			case pod == pods["node2"] && !o.Follow:
				return nil, apierrors.NewInternalError(errors.New("no route to host"))
			case pod == pods["node1"]:
				whole = stampLine(0.5, `{"early":1}`) + whole
			}
			return io.NopCloser(strings.NewReader(whole)), nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		want := []string{`{"early":1}`, `{"node":"` + pods["node3"] + `"}`}
		if follow {
			want = append(want, `{"node":"`+pods["node1"]+`"}`, `{"node":"`+pods["node2"]+`"}`)
		}
		var events, notices []string
		err := c.Logs(ctx, "opensnoop", LogOptions{Follow: follow}, func(e LogEntry) error {
			if e.Event == nil {
				notices = append(notices, e.Node+": "+e.Notice)
			} else if events = append(events, string(e.Event)); follow && len(events) == len(want) {
				cancel()
			}
			return nil
		})
		slices.Sort(events)
		slices.Sort(want)
		if !slices.Equal(events, want) {
			t.Errorf("follow %v: events %q, want %q", follow, events, want)
		}
		if follow {
			slices.Sort(notices)
			if err != nil || len(notices) != 2 || !strings.Contains(notices[0], "node1: log not readable: ") || !strings.Contains(notices[1], "no route to host") {
				t.Errorf("follow: error %v, notices %q", err, notices)
			}
		} else if err == nil || !strings.Contains(err.Error(), "connection reset") || !strings.Contains(err.Error(), "no route to host") {
			t.Errorf("error %v", err)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }

func TestCursor(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	var c cursor
	read := func(times ...int) (passed []int) {
		c.resume()
		for _, ms := range times {
			if c.pass(at(ms)) {
				passed = append(passed, ms)
			}
		}
		return passed
	}
	for _, step := range []struct{ lines, want []int }{
		{[]int{1, 2, 2}, []int{1, 2, 2}},
		{[]int{1, 2, 2, 2, 3}, []int{2, 3}},
		{[]int{1, 2, 2, 2, 3}, nil},
		// stdout and stderr are stamped apart, so a line may be out of order.
		{[]int{2, 3, 7, 6}, []int{7, 6}},
		{[]int{2, 3, 7, 6, 8}, []int{8}},
		// The line that was read last is gone.
		{[]int{500, 501}, []int{500, 501}},
	} {
		if got := read(step.lines...); !slices.Equal(got, step.want) {
			t.Errorf("lines %v: passed %v, want %v", step.lines, got, step.want)
		}
	}
}

func TestLogPrinter(t *testing.T) {
	columns := []string{"pid", "comm", "fname"}
	newer := []string{"pid", "ppid", "comm", "fname"}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	entries := []LogEntry{
		{Node: "node1", Time: at, Columns: columns, Event: json.RawMessage(`{"pid":7,"comm":"sh","fname":"/etc/passwd"}`)},
		{Node: "a-longer-node", Time: at.Add(time.Second), Columns: columns, Event: json.RawMessage(`{"pid":12345678,"comm":"a\u001b[2Jb","fname":""}`)},
		{Node: "node1", Time: at, Columns: columns, Event: json.RawMessage(`{"comm":{"x":[1,2]},"pid":1}`)},
		{Node: "node1", Time: at, Columns: columns, Notice: "bell \a and \u202e turned"},
		{Node: "node1", Time: at, Columns: newer, Event: json.RawMessage(`{"pid":7,"ppid":1,"comm":"sh","fname":"x"}`)},
		{Node: "node1", Time: at, Columns: columns, Event: json.RawMessage(`{"pid":7,"comm":"sh","fname":"x"}`)},
		{Node: "node1", Time: at, Columns: newer, Event: json.RawMessage(`{"other":true}`)},
	}
	var out bytes.Buffer
	p := NewLogPrinter(&out, time.UTC)
	for _, e := range entries {
		if err := p.Print(e); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "logs.txt", out.Bytes())
}

func TestLogPrinterOfStacks(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	p := NewLogPrinter(&out, time.UTC)
	for i, event := range []string{
		`{"comm":"a\u001b[2J","cpu_id":1,"kernel":[{"address":"0xffffffff81000010","offset":16,"symbol":"do_work"},{"address":"0xffffffffc0000000","module":"nf_tables","offset":0,"symbol":"hook"}],"pid":7,` +
			`"user":[{"address":"0x55d5c0402004","buildId":"c0ffee","fileOffset":8196,"module":"/bin/x","offset":4,"symbol":"ma\u202ein"},{"address":"0x10"}]}`,
		`{"comm":"idle","cpu_id":0,"kernel":[{"address":"0x10"}],"pid":0,"user":[],"weight":3}`,
		`{"comm":"sh","cpu_id":0,"kernel":[],"pid":1,"user":[{"address":"0x10","offset":0,"symbol":""}]}`,
		// These only look like stacks.
		`{"comm":"sh","cpu_id":0,"kernel":[],"pid":1,"user":[]}`,
		`{"comm":"sh","cpu_id":0,"kernel":6,"pid":1,"user":[]}`,
		`{"comm":"sh","cpu_id":0,"kernel":[{"address":"main"}],"pid":1,"user":[]}`,
		`{"kernel":[{"address":"0x1"}],"user":[]}`,
	} {
		if err := p.Print(LogEntry{Node: "node1", Time: at.Add(time.Duration(i) * time.Second), Event: json.RawMessage(event)}); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "stacks.txt", out.Bytes())
}

func TestLogPrinterOfHistograms(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	p := NewLogPrinter(&out, time.UTC)
	for i, event := range []string{
		`{"key":{"pid":7,"comm":"a\u001b[2J"},"value":{"slots":[1,0,12,0],"name":"sh\u202e","total":13}}`,
		`{"cpu":1,"key":3,"value":{"slots":[0,0]}}`,
		// These only look like histograms.
		`{"key":3,"value":{"slots":[1,-1]}}`,
		`{"key":3,"value":{"slots":7}}`,
		`{"key":3,"value":[1]}`,
		`{"key":3,"value":{"count":1}}`,
		`{"value":{"slots":[1]}}`,
		`{"key":3,"value":{"slots":[1` + strings.Repeat(",0", 128) + `]}}`,
	} {
		for _, linear := range []bool{false, true} {
			e := LogEntry{Node: "node1", Time: at.Add(time.Duration(i) * time.Second), Event: json.RawMessage(event), Histogram: &manifest.Histogram{Linear: linear, Unit: "us\a"}}
			if err := p.Print(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A package whose maps are not drawn.
	if err := p.Print(LogEntry{Node: "node1", Time: at, Event: json.RawMessage(`{"key":3,"value":{"slots":[1]}}`)}); err != nil {
		t.Fatal(err)
	}
	golden(t, "histograms.txt", out.Bytes())
}

func TestJSONLogPrinterKeepsTheEvent(t *testing.T) {
	var out bytes.Buffer
	event := `{"comm":"<a>&` + "\u2028" + `","n":1.0}`
	if err := NewJSONLogPrinter(&out, false)(LogEntry{Node: "n", Event: json.RawMessage(event)}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"event":`+event+`}`) {
		t.Errorf("got %s", &out)
	}
}

func TestJSONLogPrinterOnTerminal(t *testing.T) {
	events := map[string]string{
		`{"comm":"é \\u001b ` + "\u009b2J\u202e\u007f\U000e0001\x9b" + `"}`: `{"comm":"é \\u001b \u009b2J\u202e\u007f\udb40\udc01\ufffd"}`,
		`{"n":1.0}`: `{"n":1.0}`,
	}
	for event, want := range events {
		var out bytes.Buffer
		if err := NewJSONLogPrinter(&out, true)(LogEntry{Node: "n", Event: json.RawMessage(event)}); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(out.String(), `"event":`+want+"}\n") || !json.Valid(out.Bytes()) {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", maxLine+10)
	r := newLineReader(strings.NewReader("a\n\n" + long + "\nlast"))
	for _, want := range []struct {
		line string
		cut  bool
	}{{"a", false}, {"", false}, {long[:maxLine], true}, {"last", false}} {
		line, cut, err := r.next()
		if err != nil || string(line) != want.line || cut != want.cut {
			t.Fatalf("got %.20q (%d bytes), cut %v, error %v", line, len(line), cut, err)
		}
	}
	if _, _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("error %v at the end", err)
	}
}

func TestStatusRecords(t *testing.T) {
	c := newTestCluster(t, "node1", "node2")
	c.mustDeploy(t, "1.0.0")
	pods := c.podNames(t)
	lost := `{"ebpm.io/status":{"event":"lost","time":"2026-03-01T12:00:09Z","kernel":"6.12.9","programs":[{"name":"on_fork","section":"tp/sched/sched_process_fork"}],"lost":{"events":17}}}`
	c.openLog = func(_ context.Context, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
		switch {
		case pod == pods["node2"]:
			return io.NopCloser(strings.NewReader(`{"pid":1}` + "\n")), nil // rotated
		case o.SinceSeconds == nil:
			return io.NopCloser(strings.NewReader(attachedRecord + "\n{\"pid\":1}\n")), nil
		default:
			return io.NopCloser(strings.NewReader("{\"pid\":1}\n" + lost + "\n")), nil
		}
	}
	s, err := c.Status(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Nodes[0]; n.Kernel != "6.12.9" || len(n.Programs) != 1 || n.Lost["events"] != 17 || n.Recorded == nil {
		t.Errorf("node1: %+v", n)
	}
	if n := s.Nodes[1]; len(n.Programs) != 1 || n.Programs[0].Name != "on_fork" || n.Recorded != nil || !has(s.Notes, "whether events were lost is not known") {
		t.Errorf("node2: %+v, notes %q", n, s.Notes)
	}
}

// TestStatusOfRotatedLog: an instance says now and then among its events how it is.
func TestStatusOfRotatedLog(t *testing.T) {
	c := newTestCluster(t, "node1")
	c.mustDeploy(t, "1.0.0")
	log := strings.Repeat("{\"pid\":1}\n", manifest.StatusInterval/10) + runningRecord + "\n{\"pid\":1}\n"
	c.openLog = func(_ context.Context, _ string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
		if o.SinceSeconds != nil {
			return io.NopCloser(strings.NewReader("")), nil // it has nothing to print for a while
		}
		return io.NopCloser(io.LimitReader(strings.NewReader(log), *o.LimitBytes)), nil
	}
	s, err := c.Status(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Nodes[0]; n.Recorded == nil || n.Lost["events"] != 17 || n.Handover == nil || n.Handover.Role != manifest.RoleCurrent {
		t.Errorf("%+v, notes %q", n, s.Notes)
	}
}

// A standby said long ago that it took over, and not so long ago that it handed
// over; what it printed in between is not read.
func TestStatusOfStandby(t *testing.T) {
	c := newTestCluster(t, "node1", "node2")
	c.mustDeploy(t, "1.0.0")
	standby := c.podNames(t)["node1"]
	c.takeOver(t, "1.1.0")
	record := func(event, at, role, more string) string {
		return `{"ebpm.io/status":{"event":"` + event + `","time":"2026-03-01T12:00:` + at + `Z","handover":{"role":"` + role + `"` + more + `}}}` + "\n"
	}
	taken := record("attached", "01", "current", "")
	handed := record("moved", "09", "standby", "")
	took := record("moved", "09", "current", `,"way":"near exact","milliseconds":17.5,"carried":["seen"],"reset":["counts"]`)
	c.openLog = func(_ context.Context, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
		text := took
		switch {
		case pod == standby && o.TailLines != nil:
			text = taken + "{\"pid\":1}\n" + handed
		case pod == standby && o.SinceSeconds == nil:
			text = taken + "{\"pid\":1}\n"
		case o.SinceSeconds != nil:
			text = ""
		case o.TailLines != nil:
			text = "{\"pid\":2}\n" + record("lost", "08", "stale", "") // older than what was read
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}
	s, err := c.Status(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]*manifest.Handover{
		"1.0.0": {Role: manifest.RoleStandby},
		"1.1.0": {Role: manifest.RoleCurrent, Way: manifest.NearExact, Milliseconds: 17.5, Carried: []string{"seen"}, Reset: []string{"counts"}},
	}
	for _, n := range s.Nodes {
		if n.Node == "node1" {
			if diff := cmp.Diff(want[n.Tag], n.Handover); diff != "" {
				t.Errorf("instance of %s (-want +got):\n%s", n.Tag, diff)
			}
			delete(want, n.Tag)
		}
	}
	if len(want) > 0 {
		t.Errorf("not seen: %v, nodes %+v", want, s.Nodes)
	}
}

// A kubelet that refuses, one that answers nothing, and one that breaks off do not
// hide what the others say.
func TestStatusOfUnreachableNodes(t *testing.T) {
	c := newTestCluster(t, "node1", "node2", "node3", "node4")
	c.mustDeploy(t, "1.0.0")
	c.logTimeout = time.Second / 4
	pods := c.podNames(t)
	c.openLog = func(ctx context.Context, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
		switch pod {
		case pods["node1"]:
			return nil, apierrors.NewInternalError(errors.New("dial tcp: no route to host"))
		case pods["node2"]:
			<-ctx.Done()
			return nil, ctx.Err()
		case pods["node3"]:
			if o.SinceSeconds != nil {
				return io.NopCloser(broken{}), nil
			}
		}
		return io.NopCloser(strings.NewReader(attachedRecord + "\n")), nil
	}
	s, err := c.Status(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"no route to host", "no answer for 250ms", "connection reset"} {
		n := s.Nodes[i]
		if !strings.HasPrefix(n.Note, "log not readable: ") || !strings.Contains(n.Note, want) || n.Recorded != nil || len(n.Programs) != 1 || !has(s.Notes, n.Pod+" on "+n.Node+": "+n.Note) {
			t.Errorf("%s: %+v, notes %q", n.Node, n, s.Notes)
		}
	}
	if n := s.Nodes[3]; n.Recorded == nil || n.Note != "" || s.Ready != 4 || has(s.Notes, "log rotation") {
		t.Errorf("node4: %+v, notes %q", n, s.Notes)
	}
	c.openLog = func(context.Context, string, *corev1.PodLogOptions) (io.ReadCloser, error) {
		return nil, apierrors.NewForbidden(podsResource.GroupResource(), "", errors.New("bob cannot get resource"))
	}
	_, err = c.Status(t.Context(), "opensnoop")
	wantKind(t, err, manifest.KindPrecondition, "the right to get pods/log")
}

func FuzzLogLines(f *testing.F) {
	f.Add([]byte(stampLine(1, attachedRecord) + stampLine(2, `{"pid":1,"comm":"x"}`)))
	f.Add([]byte("no time\n2026-03-01T12:00:00Z\n\x00\x1b[2J {\n"))
	f.Add([]byte(stampLine(1, `{"cpu":1,"key":{"a\u0007":"\u202e"},"value":{"slots":[1,2,18446744073709551615],"x":[]}}`)))
	pod := &corev1.Pod{}
	pod.Labels = map[string]string{appsv1.DefaultDaemonSetUniqueLabelKey: "x"}
	f.Fuzz(func(t *testing.T, data []byte) {
		drawn := revision{move: move{Histogram: &manifest.Histogram{Unit: "us\u202e"}}}
		l := &logs{columns: []string{"pid", "comm"}, revisions: map[string]revision{"x": drawn}}
		printer := NewLogPrinter(io.Discard, time.UTC)
		var out bytes.Buffer
		printer.w = &out
		err := l.lines(pod, bytes.NewReader(data), &cursor{}, printer.Print, func([]byte) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range out.String() {
			if r != '\n' && manifest.TerminalUnsafe(r) {
				t.Fatalf("%q reached the terminal", r)
			}
		}
	})
}
