// Command nslookup asks a name server.
//
//	nslookup [-type=A|AAAA|CNAME|MX|NS|PTR|SRV|TXT] NAME [SERVER]
//
// Names are completed with the search list of /etc/resolv.conf, as programs do it; a name that ends in a dot is not.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

const patience = 10 * time.Second

func main() {
	kind := flag.String("type", "", "type of record; addresses, or the name of an address, when not given")
	flag.Parse()
	if flag.NArg() < 1 || flag.NArg() > 2 {
		fmt.Fprintln(os.Stderr, "usage: nslookup [-type=TYPE] NAME [SERVER]")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answers, server, err := lookup(ctx, strings.ToUpper(*kind), flag.Arg(0), flag.Arg(1))
	if server != "" {
		fmt.Printf("Server:\t\t%s\n\n", server)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "** server can't find %s: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
	for _, answer := range answers {
		fmt.Println(answer)
	}
}

// lookup asks server, or the system's, and says which one was asked.
func lookup(ctx context.Context, kind, name, server string) (answers []string, asked string, err error) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		asked = address
		if server != "" {
			asked = server
			if _, _, err := net.SplitHostPort(server); err != nil {
				asked = net.JoinHostPort(server, "53")
			}
		}
		return (&net.Dialer{}).DialContext(ctx, network, asked)
	}}
	if _, err := netip.ParseAddr(name); err == nil && (kind == "" || kind == "PTR") {
		names, err := resolver.LookupAddr(ctx, name)
		return prefixed(name+"\tname = ", names), asked, err
	}
	answers, err = records(ctx, resolver, kind, name)
	return answers, asked, err
}

// records asks for one type of record.
func records(ctx context.Context, resolver *net.Resolver, kind, name string) (answers []string, err error) {
	switch kind {
	case "", "A", "AAAA":
		network := map[string]string{"": "ip", "A": "ip4", "AAAA": "ip6"}[kind]
		addresses, err := resolver.LookupNetIP(ctx, network, name)
		for _, address := range addresses {
			answers = append(answers, fmt.Sprintf("Name:\t%s\nAddress: %s", name, address.Unmap()))
		}
		return answers, err
	case "CNAME":
		target, err := resolver.LookupCNAME(ctx, name)
		return []string{name + "\tcanonical name = " + target}, err
	case "TXT":
		texts, err := resolver.LookupTXT(ctx, name)
		return prefixed(name+"\ttext = ", texts), err
	case "MX":
		servers, err := resolver.LookupMX(ctx, name)
		for _, server := range servers {
			answers = append(answers, fmt.Sprintf("%s\tmail exchanger = %d %s", name, server.Pref, server.Host))
		}
		return answers, err
	case "NS":
		servers, err := resolver.LookupNS(ctx, name)
		for _, server := range servers {
			answers = append(answers, name+"\tnameserver = "+server.Host)
		}
		return answers, err
	case "SRV":
		_, services, err := resolver.LookupSRV(ctx, "", "", name)
		for _, service := range services {
			answers = append(answers, fmt.Sprintf("%s\tservice = %d %d %d %s", name, service.Priority, service.Weight, service.Port, service.Target))
		}
		return answers, err
	}
	return nil, fmt.Errorf("unknown type %s", kind)
}

func prefixed(prefix string, values []string) []string {
	lines := make([]string, len(values))
	for i, value := range values {
		lines[i] = prefix + value
	}
	return lines
}
