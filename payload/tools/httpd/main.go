// Command httpd answers HTTP: with the files of a folder, or, when none is given, with the pod's name, its address and
// the request as it arrived, which shows what a Service or a proxy did to it.
//
//	httpd [-p [ADDRESS:]PORT] [-h FOLDER] [-f] [-v]
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	listen := flag.String("p", "80", "port, or address and port, to listen on")
	folder := flag.String("h", "", "folder to serve")
	flag.Bool("f", true, "stay in the foreground: it always does")
	verbose := flag.Bool("v", false, "log requests")
	flag.Parse()
	handler := http.Handler(http.HandlerFunc(describe))
	if *folder != "" {
		handler = http.FileServer(http.Dir(*folder))
	}
	if *verbose {
		handler = logged(handler)
	}
	if !strings.Contains(*listen, ":") {
		*listen = ":" + *listen
	}
	server := &http.Server{Addr: *listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// describe writes who answers, who asked and what.
func describe(w http.ResponseWriter, r *http.Request) {
	host, _ := os.Hostname() // empty if the kernel will not say
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	fmt.Fprintf(w, "hostname: %s\nlocal: %v\nclient: %s\nrequest: %s %s %s\nhost: %s\n", host, local, r.RemoteAddr, r.Method, r.URL, r.Proto, r.Host)
}

func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s %s", r.RemoteAddr, r.Method, r.URL)
		next.ServeHTTP(w, r)
	})
}
