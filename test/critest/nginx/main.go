// Command nginx stands for the programs in the suite's images that are more
// than a shell and its commands:
//
//	nginx PORT [NAME]   a web server that looks from outside as the suite expects
//	                    of that one: a file holds its process id, its command line
//	                    says "master process", and it prints its NAME
//	nginx uid           says as which user it runs, being set-user-ID root
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const title = "nginx: master process nginx"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 1 && arguments[0] == "uid" {
		fmt.Println("Effective uid:", os.Geteuid())
		return nil
	}
	if os.Args[0] != title {
		// A process's command line is what its exec was given.
		return syscall.Exec("/proc/self/exe", append([]string{title}, arguments...), os.Environ())
	}
	if len(arguments) == 0 {
		return fmt.Errorf("usage: nginx PORT [NAME] | nginx uid")
	}
	if err := os.WriteFile("/var/run/nginx.pid", []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return err
	}
	fmt.Println("ready", strings.Join(arguments[1:], " "))
	return http.ListenAndServe(":"+arguments[0], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "Welcome")
	}))
}
