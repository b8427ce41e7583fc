package apiserver

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/storage"
)

const yamlMediaType = "application/yaml"

// format is the form in which a client wants its answer.
type format struct {
	media   string // one of the three media types
	as      string // "", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"
	version string // of meta.k8s.io, when as is set
	pretty  bool
}

// formatOf picks the first clause of the Accept header that we can serve. A
// client orders its clauses by preference; like upstream we do not weigh q.
//
// textOnly leaves out protobuf for whole objects, for kinds without that form.
func formatOf(r *http.Request, query url.Values, textOnly bool) (format, error) {
	accept := r.Header.Get("Accept")
	pretty := wantsPretty(r, query)
	if accept == "" {
		return format{media: storage.JSONMediaType, pretty: pretty}, nil
	}
	for clause := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil {
			continue
		}
		switch media {
		case "*/*", "application/*":
			media = storage.JSONMediaType
		case storage.JSONMediaType, storage.ProtobufMediaType, yamlMediaType:
		default:
			continue
		}
		if textOnly && media == storage.ProtobufMediaType && params["as"] == "" {
			continue
		}
		f := format{media: media, pretty: pretty}
		switch params["as"] {
		case "":
		case "Table", "PartialObjectMetadata", "PartialObjectMetadataList":
			if params["g"] != "meta.k8s.io" || params["v"] != "v1" && params["v"] != "v1beta1" {
				continue
			}
			if params["as"] == "Table" && media == storage.ProtobufMediaType {
				continue // a cell may be anything, which protobuf cannot say
			}
			f.as, f.version = params["as"], params["v"]
		default:
			continue
		}
		return f, nil
	}
	if strings.Contains(accept, "as=") {
		return format{}, notAcceptable("only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf", nil)
	}
	return format{}, notAcceptable("406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf", &metav1.StatusDetails{})
}

// wantsPretty guesses that a person is looking, as upstream does.
func wantsPretty(r *http.Request, query url.Values) bool {
	if value := query.Get("pretty"); value != "" {
		pretty, err := strconv.ParseBool(value)
		return err != nil || pretty
	}
	agent := r.Header.Get("User-Agent")
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// checkForm refuses a form that what is asked for cannot have.
func (q *request) checkForm() error {
	list := q.verb == "list" || q.verb == "deletecollection"
	// Upstream names its internal type, of the group's package.
	pkg, _, _ := strings.Cut(q.group, ".")
	if pkg == "" {
		pkg = "core"
	}
	switch {
	case q.format.as == "Table":
		include := q.includeObject()
		if !slices.Contains([]metav1.IncludeObjectPolicy{"", metav1.IncludeMetadata, metav1.IncludeObject, metav1.IncludeNone}, include) {
			return apierrors.NewBadRequest(fmt.Sprintf("Unable to convert to Table as requested: includeObject: Invalid value: %q: must be 'Metadata', 'Object', 'None', or empty", include))
		}
	case q.format.as == "PartialObjectMetadata" && list:
		return notAcceptable(fmt.Sprintf("you requested PartialObjectMetadata, but the requested object is a list (*%s.%sList)", pkg, q.row.Kind), nil)
	case q.format.as == "PartialObjectMetadataList" && !list && q.verb != "watch":
		return notAcceptable(fmt.Sprintf("you requested PartialObjectMetadataList, but the requested object is not a list (*%s.%s)", pkg, q.row.Kind), nil)
	}
	return nil
}

func notAcceptable(message string, details *metav1.StatusDetails) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: message, Details: details,
	}}
}

func unsupportedMediaType(supported ...string) error {
	return unsupported("the body of the request was in an unknown format - accepted media types include: "+strings.Join(supported, ", "), nil)
}

func unsupported(message string, details *metav1.StatusDetails) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: message, Details: details,
	}}
}

// bodyMediaType is the media type of a request's body; nothing means JSON.
func bodyMediaType(r *http.Request) string {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media == "" {
		return storage.JSONMediaType
	}
	return media
}
