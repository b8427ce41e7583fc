package apiserver_test

// What is in testdata/wire was said by a real kube-apiserver v1.36: each file
// is a conversation, requests with the answers that they got, and ours must
// answer the same. Where it does not, the file says why, and which lines of
// the answer are others ("=> ours: reason"); the test prints these, and fails
// as soon as they are no longer true.
//
//	KUBE_APISERVER=path go test ./apiserver -run TestWire -update   the real answers
//	go test ./apiserver -run TestWire -update                       the differences
//
// asks again and writes down what is answered. What differs between two runs
// (times, UIDs, versions, addresses) is replaced by its kind, and what is the
// same in all failures is left out.

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"tinykube/internal/testenv"
)

var update = flag.Bool("update", false, "write down what the kube-apiserver at $KUBE_APISERVER answers, or without one, where ours differs")

// exchange is one request of a conversation and what was answered.
type exchange struct {
	name    string // after "## "
	request []string
	upTo    string // upstream's answer
	reason  string // why ours differs; "" if it does not
	ours    string // the lines that do, as of diff
}

func TestWire(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	host := env.Config.Host
	if path := os.Getenv("KUBE_APISERVER"); path != "" {
		host = startReal(t, env, path)
	}
	w := newWire(t, env, host)
	files, err := filepath.Glob("testdata/wire/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { w.converse(t, file) })
	}
}

// wire sends requests and remembers what later ones may refer to.
type wire struct {
	host   string
	client *http.Client
	real   bool
	vars   map[string]string
}

func newWire(t *testing.T, env *testenv.Env, host string) *wire {
	t.Helper()
	pki := filepath.Join(env.Dir, "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "admin.crt"), filepath.Join(pki, "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	return &wire{host: host, real: host != env.Config.Host, vars: map[string]string{}, client: &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true}, // a loopback of the test's own
		ForceAttemptHTTP2: true, DisableCompression: true,
	}}}
}

// converse plays one file.
func (w *wire) converse(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	exchanges := parseConversation(string(data))
	for i := range exchanges {
		e := &exchanges[i]
		got := w.ask(t, e)
		if w.real {
			if *update {
				e.upTo = got
			} else if diff := lineDiff(e.upTo, got); diff != "" {
				t.Errorf("%s (-noted +upstream):\n%s", e.name, diff)
			}
			continue
		}
		differs := lineDiff(e.upTo, got)
		switch {
		case *update:
			if e.ours = differs; differs == "" {
				e.reason = ""
			} else if e.reason == "" {
				e.reason = noReason
			}
		case differs != e.ours:
			t.Errorf("%s (-upstream +got):\n%s\nnoted are\n%s", e.name, differs, e.ours)
		case e.reason != "":
			t.Logf("%s: differs: %s\n%s", e.name, e.reason, differs)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(formatConversation(exchanges)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// noReason stands where somebody has yet to say why ours differs.
const noReason = "?"

// lineDiff returns the lines in which two texts differ: those of the longest
// sequence that both have are left out. Of a failure and a success, the codes
// say enough.
func lineDiff(a, b string) string {
	if a == b {
		return ""
	}
	if refused := a[0] != '2'; refused != (b[0] != '2') {
		return fmt.Sprintf("-%.3s and what follows\n+%.3s and what follows\n", a, b)
	}
	x, y := strings.Split(strings.TrimSuffix(a, "\n"), "\n"), strings.Split(strings.TrimSuffix(b, "\n"), "\n")
	common := make([][]int, len(x)+1) // [i][j]: how long that of x[i:] and y[j:] is
	for i := range common {
		common[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(x) || j < len(y); {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && common[i+1][j] >= common[i][j+1]:
			fmt.Fprintf(&out, "-%s\n", x[i])
			i++
		default:
			fmt.Fprintf(&out, "+%s\n", y[j])
			j++
		}
	}
	return out.String()
}

// parseConversation splits a file at its "## ", "-> " and "=> ours: " lines.
func parseConversation(text string) []exchange {
	var out []exchange
	var into *string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		last := len(out) - 1
		switch {
		case strings.HasPrefix(line, "## "):
			out, into = append(out, exchange{name: line[3:]}), nil
		case last < 0: // what the file is about
		case strings.HasPrefix(line, "-> "):
			out[last].upTo, into = line[3:]+"\n", &out[last].upTo
		case strings.HasPrefix(line, "=> ours: "):
			out[last].reason, into = line[9:], &out[last].ours
		case into != nil:
			*into += strings.TrimPrefix(line, "-> ") + "\n"
		default:
			out[last].request = append(out[last].request, line)
		}
	}
	for i := range out {
		out[i].upTo = strings.TrimRight(out[i].upTo, "\n") + "\n"
		if out[i].reason != "" {
			out[i].ours = strings.TrimRight(out[i].ours, "\n") + "\n"
		}
	}
	return out
}

func formatConversation(exchanges []exchange) string {
	var out strings.Builder
	for _, e := range exchanges {
		fmt.Fprintf(&out, "## %s\n%s\n-> %s", e.name, strings.TrimRight(strings.Join(e.request, "\n"), "\n"), e.upTo)
		if e.reason != "" {
			fmt.Fprintf(&out, "=> ours: %s\n%s", e.reason, e.ours)
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

var variable = regexp.MustCompile(`\{\{[\w.]+\}\}`)

// ask sends an exchange's request and returns the answer in comparable form;
// with "Until: text" again and again, until the answer contains that.
func (w *wire) ask(t *testing.T, e *exchange) string {
	t.Helper()
	until := ""
	for _, line := range e.request {
		if text, found := strings.CutPrefix(line, "Until: "); found {
			until = text
		}
	}
	answer := ""
	eventually(t, e.name+": "+until, func() bool {
		answer = w.askOnce(t, e)
		return strings.Contains(answer, until)
	})
	return answer
}

func (w *wire) askOnce(t *testing.T, e *exchange) string {
	t.Helper()
	text := variable.ReplaceAllStringFunc(strings.Join(e.request, "\n"), func(name string) string {
		value, known := w.vars[strings.Trim(name, "{}")]
		if !known {
			t.Fatalf("%s: nobody has saved %s", e.name, name)
		}
		return value
	})
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	method, path, _ := strings.Cut(lines[0], " ")
	request, err := http.NewRequestWithContext(t.Context(), method, w.host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", "wire/1")
	request.Header.Set("Accept", "application/json")
	if strings.TrimSpace(body) != "" {
		request.Header.Set("Content-Type", "application/yaml")
	}
	var save, show string
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "Save":
			save = value
		case "Until": // see ask
		case "Show":
			show = value
		default:
			request.Header.Set(name, value)
		}
	}
	response, err := w.client.Do(request)
	if err != nil {
		t.Fatalf("%s: %v", e.name, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s: %v", e.name, err)
	}
	if save != "" {
		w.save(save, data)
	}
	return describeAnswer(response, data, show)
}

// save keeps an answer's metadata for later requests: {{name.rv}} and so on.
func (w *wire) save(name string, data []byte) {
	var obj struct {
		Metadata struct{ Name, UID, ResourceVersion, Continue string }
	}
	json.Unmarshal(data, &obj)
	w.vars[name+".name"], w.vars[name+".uid"] = obj.Metadata.Name, obj.Metadata.UID
	w.vars[name+".rv"], w.vars[name+".continue"] = obj.Metadata.ResourceVersion, obj.Metadata.Continue
}

// shownHeaders are part of an answer if they are there.
var shownHeaders = []string{"Warning", "Content-Type", "Retry-After", "Location", "Allow"}

// describeAnswer writes an answer as code, headers and YAML. Show names what
// would otherwise be left out: managedFields, or the objects in a table.
func describeAnswer(response *http.Response, data []byte, show string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d\n", response.StatusCode)
	for _, name := range shownHeaders {
		for _, value := range response.Header[name] {
			if name != "Content-Type" || value != "application/json" {
				fmt.Fprintf(&out, "%s: %s\n", name, value)
			}
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	for documents := 0; ; documents++ {
		var document any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return out.String()
		} else if err != nil { // not JSON at all
			out.WriteString(strings.TrimSpace(comparableText(string(data))) + "\n")
			return out.String()
		}
		if documents > 0 {
			out.WriteString("---\n")
		}
		value := comparable("", document, show)
		if status, ok := value.(map[string]any); ok && status["kind"] == "Status" {
			shortenStatus(status, response.StatusCode)
		}
		text, err := yaml.Marshal(value)
		if err != nil {
			text = []byte(err.Error())
		}
		out.Write(text)
	}
}

// changing are fields whose value is another in every run.
var changing = map[string]string{"uid": "UID", "resourceVersion": "VERSION", "continue": "TOKEN", "clusterIP": "IP"}

// comparable replaces what cannot be the same twice.
func comparable(key string, value any, show string) any {
	switch value := value.(type) {
	case map[string]any:
		if !strings.Contains(show, "managedFields") {
			delete(value, "managedFields")
		}
		if !strings.Contains(show, "object") && value["cells"] != nil {
			delete(value, "object")
		}
		if fields, ok := value["fieldsV1"]; ok {
			text, _ := json.Marshal(fields)
			value["fieldsV1"] = string(text)
		}
		if base, ok := value["generateName"].(string); ok && strings.HasPrefix(fmt.Sprint(value["name"]), base) {
			value["name"] = base + "*"
		}
		for k, v := range value {
			value[k] = comparable(k, v, show)
		}
		sortCauses(value)
		return value
	case []any:
		for i := range value {
			value[i] = comparable(key, value[i], show)
		}
		if key == "managedFields" { // upstream's order is that of seconds
			slices.SortFunc(value, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
		if key == "columnDefinitions" {
			for i := range value { // their descriptions are upstream's own words
				column := value[i].(map[string]any)
				value[i] = strings.Join(strings.Fields(fmt.Sprint(column["name"], " ", column["type"], " ", column["format"], " ", column["priority"])), " ")
			}
		}
		return value
	case json.Number:
		if strings.HasSuffix(strings.ToLower(key), "nodeport") && len(value) == 5 {
			return "NODEPORT"
		}
		return value
	case string:
		if kind := changing[key]; kind != "" && value != "" && value != "None" && value != "0" {
			return kind
		}
		if _, err := time.Parse(time.RFC3339Nano, value); err == nil {
			return "TIME"
		}
		return comparableText(value)
	}
	return value
}

// sortCauses: upstream walks over maps, so that the order of what is wrong is
// another in every run. The message says the same as the causes once more.
func sortCauses(value map[string]any) {
	if causes, ok := value["causes"].([]any); ok {
		for i := range causes {
			cause := causes[i].(map[string]any)
			causes[i] = fmt.Sprintf("%v: %v: %v", cause["field"], cause["reason"], cause["message"])
		}
		slices.SortFunc(causes, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	}
	message, _ := value["message"].(string)
	if head, _, list := strings.Cut(message, " is invalid: ["); list && value["reason"] == "Invalid" {
		value["message"] = head + " is invalid: [the causes]"
	}
}

// shortenStatus takes away what every failure has, if this one has it.
func shortenStatus(status map[string]any, code int) {
	metadata, _ := status["metadata"].(map[string]any)
	if status["status"] != "Failure" || status["apiVersion"] != "v1" || metadata == nil || len(metadata) > 0 || fmt.Sprint(status["code"]) != fmt.Sprint(code) {
		return
	}
	for _, always := range []string{"apiVersion", "status", "metadata", "code"} {
		delete(status, always)
	}
}

var changingText = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`\b10\.(9[6-9]|10\d|11[01])\.\d+\.\d+\b`), "IP"},
	{regexp.MustCompile(`current: \d+`), "current: N"},
	{regexp.MustCompile(`range of valid IPs is [\w./,]+`), "range of valid IPs is RANGE"}, // of any ServiceCIDR
	{regexp.MustCompile(`^(\d+m?s|\d+y\d+d)$`), "AGE"},
	{regexp.MustCompile(`\b3[0-2]\d{3}(/TCP|/UDP)`), "NODEPORT$1"},
	{regexp.MustCompile(`(\bmade-|\bMade_|kube-api-access-)[a-z0-9]{5}\b`), "$1*"},
	{regexp.MustCompile(`in record \(\d+\)`), "in record (N)"},
	// Objects in messages: upstream writes those of its internal types.
	{regexp.MustCompile(`(?s)(Invalid|Unsupported|Duplicate) value: "?[\[]?\{.*\}[\]]?"?`), "$1 value: OBJECT"},
	{regexp.MustCompile(`(?s)\n@@.*`), " (the difference)"},
	{regexp.MustCompile(`X509SHA256=\w+`), "X509SHA256=N"},
}

func comparableText(text string) string {
	for _, c := range changingText {
		text = c.pattern.ReplaceAllString(text, c.with)
	}
	return text
}

// The files hold what they should: each exchange a request and an answer.
func TestConversations(t *testing.T) {
	files, _ := filepath.Glob("testdata/wire/*.txt")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range parseConversation(string(data)) {
			if len(e.request) == 0 || strings.TrimSpace(e.upTo) == "" {
				t.Errorf("%s: %q is no exchange", file, e.name)
			}
			if e.reason == noReason {
				t.Errorf("%s: say why %q differs", file, e.name)
			}
			if slices.Contains(names, e.name) {
				t.Errorf("%s: two are named %q", file, e.name)
			}
			names = append(names, e.name)
		}
	}
}
