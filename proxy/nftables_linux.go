package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// elementWriter changes elements of sets without the program nft: most changes
// are of one endpoint, which is one element out and one in. The program needs
// 4 ms of a CPU for that, to start and to read what there is; and when it ends the
// kernel makes it wait until what it has removed is free, a grace period of 20 ms.
// A socket that stays open waits for neither.
//
//	NFNL_MSG_BATCH_BEGIN, DELSETELEM …, NEWSETELEM …, NFNL_MSG_BATCH_END
//
// is one transaction, as what nft sends is. All else goes through nft, which knows
// the language of sets and rules.
type elementWriter struct{ socket *nl.NetlinkSocket }

// fewElements fit into one message to the kernel.
const fewElements = 400

// errNotElements says that a change is not for us.
var errNotElements = errors.New("not only a few elements")

// write makes the changes, all or none.
func (w *elementWriter) write(f Family, c changes) (err error) {
	batch := nftMessage(unix.AF_UNSPEC, unix.NFNL_MSG_BATCH_BEGIN, unix.NFNL_SUBSYS_NFTABLES)
	count, last := 0, 0
	for _, step := range []struct {
		kind     int
		elements map[string][]element
	}{{unix.NFT_MSG_DELSETELEM, c.remove}, {unix.NFT_MSG_NEWSETELEM, c.add}} {
		for set, elements := range step.elements {
			if count += len(elements); set == nftSets || set == nftChains || set == "allowed-sources" || count > fewElements {
				return errNotElements // ranges have an encoding of their own
			}
			for _, e := range elements {
				last = len(batch)
				batch = append(batch, nftMessage(f.protocol(), unix.NFNL_SUBSYS_NFTABLES<<8|step.kind, 0, e.netlink()...)...)
			}
		}
	}
	// One answer, to the last element: the kernel gives it after the commit. To an
	// element that is wrong it answers unasked, and before.
	flags := batch[last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	batch = append(batch, nftMessage(unix.AF_UNSPEC, unix.NFNL_MSG_BATCH_END, unix.NFNL_SUBSYS_NFTABLES)...)
	if w.socket == nil {
		if w.socket, err = nl.Subscribe(unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		_ = w.socket.SetReceiveTimeout(&unix.Timeval{Sec: 10})
	}
	if err = w.exchange(batch); err != nil {
		w.socket.Close() // and with it, what else it has to say
		w.socket = nil
	}
	return err
}

func (w *elementWriter) exchange(batch []byte) error {
	if err := unix.Sendto(w.socket.GetFd(), batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer, _, err := w.socket.Receive()
	if err != nil {
		return err
	}
	if answer[0].Header.Type != unix.NLMSG_ERROR {
		return fmt.Errorf("the kernel answered with message %d", answer[0].Header.Type)
	}
	if errno := int32(binary.NativeEndian.Uint32(answer[0].Data)); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}

func (f Family) protocol() byte {
	if f == IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// nftMessage is a netlink header, a netfilter header and attributes.
func nftMessage(family byte, kind int, resource byte, attributes ...*nl.RtAttr) []byte {
	m := nl.NetlinkRequest{NlMsghdr: unix.NlMsghdr{Type: uint16(kind), Flags: unix.NLM_F_REQUEST}, RawData: []byte{family, 0, 0, resource}}
	if kind&0xff == unix.NFT_MSG_NEWSETELEM {
		m.Flags |= unix.NLM_F_CREATE
	}
	for _, a := range attributes {
		m.AddRawData(a.Serialize())
	}
	return m.Serialize()
}

// netlink is an element as the kernel reads it: the set's name, a key and, in a
// map, a value.
func (e element) netlink() []*nl.RtAttr {
	list := nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_ELEMENTS, nil)
	item := list.AddRtAttr(unix.NFTA_LIST_ELEM, nil)
	item.AddRtAttr(unix.NFTA_SET_ELEM_KEY, nil).AddRtAttr(unix.NFTA_DATA_VALUE, e.fields(e.key))
	if e.value != "" {
		data := item.AddRtAttr(unix.NFTA_SET_ELEM_DATA, nil)
		if chain, is := strings.CutPrefix(e.value, "goto "); is {
			verdict := data.AddRtAttr(unix.NFTA_DATA_VERDICT, nil)
			verdict.AddRtAttr(unix.NFTA_VERDICT_CODE, binary.BigEndian.AppendUint32(nil, 1<<32+unix.NFT_GOTO))
			verdict.AddRtAttr(unix.NFTA_VERDICT_CHAIN, nl.ZeroTerminated(chain))
		} else if e.value == "drop" {
			data.AddRtAttr(unix.NFTA_DATA_VERDICT, nil).AddRtAttr(unix.NFTA_VERDICT_CODE, make([]byte, 4))
		} else {
			data.AddRtAttr(unix.NFTA_DATA_VALUE, e.fields(e.value))
		}
	}
	return []*nl.RtAttr{nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(nftTable)),
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(e.set)), list}
}

// fields are the bytes of "10.96.0.80 . tcp . 80", each field filled up to four.
func (e element) fields(text string) (bytes []byte) {
	for i, field := range strings.Split(text, " . ") {
		number, _ := strconv.ParseUint(field, 10, 16)
		if ip, err := netip.ParseAddr(field); err == nil {
			bytes = append(bytes, ip.AsSlice()...)
		} else if protocol := protocolNumbers[field]; protocol != 0 {
			bytes = append(bytes, protocol, 0, 0, 0)
		} else if i == 2 && strings.HasSuffix(e.set, "-endpoints") && e.set != "no-endpoints" {
			bytes = binary.NativeEndian.AppendUint32(bytes, uint32(number)) // a lot is a number of the machine's, not of the wire's
		} else {
			bytes = append(binary.BigEndian.AppendUint16(bytes, uint16(number)), 0, 0)
		}
	}
	return bytes
}

var protocolNumbers = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}
