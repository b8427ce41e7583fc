package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of the kernel's connection tracking that the netlink package has no
// names for: a filter that is applied before an entry is told.
//
// Spec: linux/netfilter/nfnetlink_conntrack.h
const (
	ctaFilter          = 25
	ctaFilterOrigFlags = 1
	filterByProtocol   = 1 << 3 // compare the protocol of the tuple that comes along
)

// deleteStaleFlows answers how many there were. It asks once for all, and for UDP
// alone: of a table that is full of TCP connections nothing is copied to us.
//
//	conntrack -L -p udp; conntrack -D …
func deleteStaleFlows(family Family, f udpFlows) (deleted uint, err error) {
	if len(f.services) == 0 {
		return 0, nil
	}
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER) // one for all of them
	if err != nil {
		return 0, fmt.Errorf("stale UDP flows: %w", err)
	}
	defer socket.Close()
	sockets := map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: socket}}
	request := func(operation, flags int) *nl.NetlinkRequest {
		r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|operation, flags)
		r.Sockets = sockets
		r.AddData(&nl.Nfgenmsg{NfgenFamily: family.protocol(), Version: nl.NFNETLINK_V0})
		return r
	}
	list := request(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil).AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_UDP})
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
	filter.AddRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(filterByProtocol))
	list.AddData(tuple)
	list.AddData(filter)
	var stale [][]byte
	err = list.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		entry := message[nl.SizeofNfgenmsg:]
		// A kernel before 5.8 knows no filter and tells of all.
		if flow, ok := parseFlow(entry); ok && f.stale(flow) {
			stale = append(stale, append([]byte{}, entry...))
		}
		return true
	})
	for _, entry := range stale {
		r := request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		r.AddRawData(entry)
		if _, e := r.Execute(unix.NETLINK_NETFILTER, 0); e == nil || errors.Is(e, unix.ENOENT) {
			deleted++ // or gone by itself meanwhile
		} else {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return deleted, fmt.Errorf("stale UDP flows: %w", err)
	}
	return deleted, nil
}

// parseFlow reads an entry of the table; not ok is one that is not UDP's.
func parseFlow(entry []byte) (flow Flow, ok bool) {
	asked, answered := attribute(entry, nl.CTA_TUPLE_ORIG), attribute(entry, nl.CTA_TUPLE_REPLY)
	if p := attribute(attribute(asked, nl.CTA_TUPLE_PROTO), nl.CTA_PROTO_NUM); len(p) != 1 || p[0] != unix.IPPROTO_UDP {
		return flow, false
	}
	end := func(tuple []byte, v4, v6, port uint16) (netip.AddrPort, bool) {
		ips, ports := attribute(tuple, nl.CTA_TUPLE_IP), attribute(attribute(tuple, nl.CTA_TUPLE_PROTO), port)
		ip, ok := netip.AddrFromSlice(attribute(ips, v4))
		if !ok {
			ip, ok = netip.AddrFromSlice(attribute(ips, v6))
		}
		if !ok || len(ports) != 2 {
			return netip.AddrPort{}, false
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(ports)), true
	}
	var ok1, ok2 bool
	flow.Asked, ok1 = end(asked, nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST, nl.CTA_PROTO_DST_PORT)
	flow.Answerer, ok2 = end(answered, nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC, nl.CTA_PROTO_SRC_PORT)
	return flow, ok1 && ok2
}

// attribute finds one among netlink attributes; nil if it is not there.
func attribute(list []byte, kind uint16) []byte {
	for len(list) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(list))
		if size < unix.SizeofNlAttr || size > len(list) {
			return nil
		}
		if binary.NativeEndian.Uint16(list[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return list[unix.SizeofNlAttr:size]
		}
		list = list[min(len(list), (size+3)&^3):]
	}
	return nil
}
