// Command date prints the time.
//
//	date [-u] [-Iseconds] [+FORMAT]
package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// layouts are strftime's conversions in terms of Go's reference time.
var layouts = map[byte]string{
	'Y': "2006", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'y': "06",
	'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04", 'Z': "MST", 'z': "-0700",
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'h': "Jan", 'j': "002", 'c': time.ANSIC,
}

func main() {
	now, format := time.Now(), "+%a %b %e %H:%M:%S %Z %Y"
	for _, argument := range os.Args[1:] {
		switch {
		case argument == "-u":
			now = now.UTC()
		case argument == "-I":
			format = "+%F"
		case argument == "-Iseconds", argument == "-Is":
			format = "+%FT%T%z"
		case strings.HasPrefix(argument, "+"):
			format = argument
		default:
			fmt.Fprintln(os.Stderr, "usage: date [-u] [-Iseconds] [+FORMAT]")
			os.Exit(1)
		}
	}
	fmt.Println(strftime(now, format[1:]))
}

func strftime(t time.Time, format string) string {
	var out strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			out.WriteByte(format[i])
			continue
		}
		i++
		layout, known := layouts[format[i]]
		switch {
		case format[i] == 's':
			fmt.Fprint(&out, t.Unix())
		case format[i] == '%':
			out.WriteByte('%')
		case format[i] == 'N': // Go reads a fraction only behind a point
			fmt.Fprintf(&out, "%09d", t.Nanosecond())
		case known:
			out.WriteString(t.Format(layout))
		default:
			out.WriteString(format[i-1 : i+1])
		}
	}
	return out.String()
}
