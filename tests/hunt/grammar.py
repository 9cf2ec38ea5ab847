"""What lines of a program may be: templates over tensors ``a`` and ``b``, dimensions ``d`` and ``e``, numbers ``i``.

They come in kinds, and a kind is drawn first: a kind with many templates isn't drawn more often than others.
"""

#: What a program begins with, by layout of the batch; (examples, C), (examples, T, C) and what is made of them.
STARTS = (
    "D['x']", "D['x']", "D['s']", "D['s']", "D['z']", "D['tb']", "D['k']", "D['tflat']", "D['pairs']", "D['mid']",
    "D['strided']", "D['wide']", "D['turned']", "D['heads']", "D['cols'].t()", "D['img']", "D['s'].flatten(0, 1)",
    "D['s'].transpose(0, 1)", "D['s'].mT", "D['x'][D['order']]", "D['x'].repeat(2, 1)",
    "D['x'].repeat_interleave(2, 0)",
    "net.emb(D['tokens'])", "net.pad(D['tokens'])", "net.emb(D['tokens'].t())", "net.emb(D['tokens'].flatten())",
    "net.emb(D['label'])", "F.one_hot(D['tokens'], 8).double() @ net.emb.weight",
    "torch.cat([D['x'], D['z']])", "torch.stack([D['x'], D['z']], 1)", "torch.stack([D['x'], D['z']])",
)  # fmt: skip

KINDS = {
    "linear": """
net.lin({a})
net.lin2({a})
net.up({a})
net.lin3({a}).tanh() + net.tied({a})
net.tied(net.lin3({a}))
net.time({a}.mT).mT
net.bil({a}, {b})
net.frozen({a})
net.late({a})
net.late({a}) if step >= 1 else {a}
net.spectral({a})
net.wn({a})
net.skew({a})
net.inplace({a})
{a} @ net.w
{a} @ net.w.t()
{a} @ (net.w * net.s)
F.linear({a}, net.w, net.v)
F.linear({a}, net.w.tanh())
F.linear({a}, torch.cat([net.w, net.c[0]]))
torch.matmul({a}, net.c)
torch.addmm(net.v, {a}, net.w)
torch.bmm({a}, net.w.expand(len({a}), -1, -1))
torch.stack([{a} @ e for e in net.experts]).sum(0)
torch.stack([{a} @ e for e in net.experts], {d}).sum({d})
net.lin({a}.t()).t()
net.lin({a}.transpose({d}, {e})).transpose({d}, {e})
net.lin(net.lin({a}).tanh())
""",
    "convolution": """
net.conv({a}.mT).mT
net.conv({a})
net.conv1({a}.mT).mT
net.conv1({a}[..., None]).squeeze(-1)
net.dw({a}.mT).mT
net.circ({a}.mT).mT
net.up2({a}.mT).mT
net.conv2({a})
net.conv2({a}).relu()
net.patch({a}).flatten(2).mT
net.patch({a}).mean((2, 3))
F.conv1d({a}.mT, net.c, padding=1).mT
F.conv1d({a}.mT, net.w[..., None]).mT
F.conv1d({a}, net.c.tanh(), padding=1)
F.avg_pool2d({a}, 2)
F.max_pool2d({a}, 2)
F.adaptive_avg_pool2d({a}, 1).flatten(1)
{a}.flatten(2).mT
""",
    "norm": """
net.ln({a})
net.ln2({a})
net.rms({a})
net.gn({a})
net.gn({a}.mT).mT
net.inorm({a}.mT).mT
net.bn({a})
net.prelu({a})
net.prelus({a})
F.layer_norm({a}, {a}.shape[-1:], net.v, None)
F.normalize({a}, dim={d})
{a} / {a}.norm(dim={d}, keepdim=True)
({a} - {a}.mean({d}, keepdim=True)) / (1 + {a}.std({d}, keepdim=True))
F.dropout({a}, 0.3)
net.drop({a})
{a} + 0.1 * torch.randn_like({a})
{a} * torch.rand({a}.shape[{d}:])
F.dropout1d({a}, 0.4)
""",
    "attention": """
net.mha({a}, {a}, {a})[0]
net.mha({a}, {b}, {b})[0]
net.mha({a}, {b}, {b}, need_weights=False)[0]
net.mhat({a}, {a}, {a})[0]
net.enc({a})
F.scaled_dot_product_attention({a}, {b}, {b})
F.scaled_dot_product_attention({a}, {a}, {b}, is_causal=True)
F.scaled_dot_product_attention({a}, {a}, {b}, attn_mask=net.u @ net.u.t())
F.scaled_dot_product_attention({a}, {a}, {a}, attn_mask=({a} @ {a}.mT).tanh())
F.scaled_dot_product_attention(net.q.expand(len({a}), -1, -1), {a}, {a})
({a} @ {b}.mT).softmax({d}) @ {a}
({a} @ {b}.mT + net.s).softmax(-1) @ {b}
torch.einsum('bij,bkj->bik', {a}, {b}).softmax(-1) @ {b}
torch.einsum('ibj,kbj->bik', {a}, {b})
({a} @ {b}.mT).masked_fill(torch.ones({a}.shape[1], {a}.shape[1]).triu(1) > 0, -30).softmax(-1) @ {b}
net.pos(torch.arange({a}.shape[1])) + {a}
{a} + net.u
{a} + net.pos.weight
torch.cat([net.q[:1].expand({a}.shape[0], 1, -1), {a}], 1)
{a} @ net.u[None].repeat(len({a}), 1, 1).mT
""",
    "recurrence": """
net.gru({a})[0]
net.gru({a})[1][0]
net.grut({a})[0]
net.grut({a})[1][0]
net.lstm({a})[0][:, -1]
net.lstms({a})[0][..., : {a}.shape[-1]]
net.gru({a}, {b}[:, :1].transpose(0, 1).contiguous())[0]
packed({a}, net.gru)
packed({a}, net.grut, net.lin)
packed({a}, net.lstm, lambda rows: net.lin(rows).tanh() * net.v, True)
packed({a}, net.lstms)
packed({a}, net.gru, lambda rows: rows - rows[:1])
net.cell({a}, {b})
net.rnn(net.rnn({a}), {b})
torch.stack([net.lin({a}[:, j]).tanh() for j in range({a}.shape[1])], 1)
torch.stack([net.cell({a}[:, j], {a}[:, j - 1]) for j in range({a}.shape[1])], 1)
net.cell({a}[:, 1], net.cell({a}[:, 0]))
""",
    "direct": """
{a} * net.v
{a} + net.v
{a} * net.s
{a} * net.s.exp() + net.v
{a} + net.u
{a} * net.w[0]
{a} + net.q[0]
torch.einsum('...i,ij->...j', {a}, net.w)
torch.einsum('bi,ij->bj', {a}, net.w)
torch.einsum('bti,ij->btj', {a}, net.w)
torch.einsum('tbi,ji->tbj', {a}, net.w)
torch.einsum('bi,ijk,bk->bj', {a}, net.c, {b})
torch.einsum('bi,ijk->bjk', {a}, net.c)
torch.einsum('bti,ti->bt', {a}, net.u)
torch.cdist({a}, net.w)
torch.cdist({a}, net.q)
torch.cat([{a}, net.v.expand({a}.shape)], -1)
torch.cat([net.q[:1].expand(len({a}), 1, -1), {a}], 1)
torch.lerp({a}, {b}, net.s.sigmoid())
torch.lerp({a}, {b}, net.v)
torch.addcmul({a}, {b}, net.v)
torch.where({a} > 0, {a}, net.v * {a})
torch.maximum({a}, net.v)
net.w[D['label']]
net.q[D['tokens']]
net.c[D['label']] @ {a}.unsqueeze(-1)
net.emb.weight[D['tokens']]
net.w.expand(n, -1, -1) @ {a}.unsqueeze(-1)
net.v.expand(n, -1) * {a}
net.v * {a} + net.lin({a})
{a} @ net.lin.weight
{a} @ net.w @ net.w
net.w @ {a}.unsqueeze(-1)
""",
    "elementwise": """
{a}.tanh()
{a}.sin()
{a}.relu()
{a}.exp().clamp(max=20.0)
F.gelu({a})
F.silu({a})
F.softplus({a})
F.leaky_relu({a})
F.elu({a})
F.glu({a}, -1)
{a} + {b}
{a} * {b}
{a} - {b}
{a} / (1 + {b}.square())
torch.maximum({a}, {b})
torch.where({b} > 0, {a}, {b})
torch.atan2({a}, {b})
torch.logaddexp({a}, {b})
torch.hypot({a}, {b})
{a} * {b}.detach()
{a}.detach() + net.v * {a}
{a}.clone()
{a}.contiguous()
{a}.lerp({b}, 0.3)
({a} if step < 2 else {b})
{a} * (1 if step < 1 else 0.5)
{a}.square()
torch.complex({a}, {b}).abs()
""",
    "view": """
{a}.transpose({d}, {e})
{a}.movedim({d}, {e})
{a}.mT
{a}.permute(2, 0, 1)
{a}.permute(1, 2, 0)
{a}.flatten({d}, {e})
{a}.unflatten({d}, (2, -1))
{a}.unflatten({d}, (-1, 2))
{a}.unflatten({d}, (n, -1))
{a}.unflatten({d}, (-1, n))
{a}.reshape(n, -1)
{a}.reshape(-1, {a}.shape[0])
{a}.reshape(2, -1)
{a}.reshape({a}.shape[0], -1, 2)
{a}.unsqueeze({d})
{a}.squeeze({d})
{a}[..., None]
{a}[None]
{a}[:, None]
{a}.select({d}, {i})
{a}.narrow({d}, {i}, 2)
{a}.diagonal(dim1={d}, dim2={e})
{a}.unfold({d}, 2, 1)
{a}.unfold({d}, 2, 2)
{a}[..., ::2]
{a}[:, ::2]
{a}[::2]
{a}[:, 1:]
{a}[..., 1:]
{a}[:, -1]
{a}[..., {i}]
{a}.expand(2, *{a}.shape)
{a}.expand(n, *{a}.shape)
{a}.unsqueeze({d}).expand(*[-1] * {a}.ndim, n)
{a}.swapaxes({d}, {e}).contiguous().swapaxes({d}, {e})
{a}.view(-1)
{a}.as_strided({a}.shape, {a}.stride())
""",
    "joined": """
torch.cat([{a}, {b}], {d})
torch.cat([{a}, {b}])
torch.stack([{a}, {b}], {d})
torch.stack([{a}, {b}], -1)
torch.cat({a}.chunk(2, {d}), {e})
torch.cat({a}.split(2, {d}), {d})
torch.stack({a}.unbind({d}), {e})
torch.stack(list({a}), {d})
torch.stack([t.tanh() for t in {a}.unbind({d})], {d})
{a}.chunk(2, {d})[0]
{a}.chunk(2, {d})[1] * {a}.chunk(2, {d})[0]
{a}.split([1, {a}.shape[{d}] - 1], {d})[1]
{a}.unbind({d})[0] + {a}.unbind({d})[1]
{a}.repeat_interleave(2, {d})
{a}.repeat(2, *[1] * ({a}.ndim - 1))
{a}.tile((2,))
torch.hstack([{a}, {b}])
torch.dstack([{a}, {b}])
torch.cat([{a}, torch.zeros_like({a})], {d})
torch.cat([D['z'], {a}], {d})
F.pad({a}, (1, 1))
F.pad({a}, (0, 0, 1, 0))
F.pad({a}, (1, 0), mode='replicate')
torch.cat([{a}.narrow({d}, 1, {a}.shape[{d}] - 1), {a}.narrow({d}, 0, 1)], {d})
""",
    "picked": """
{a}.flip({d})
{a}.roll({i}, {d})
{a}.roll({i})
{a}.sort({d})[0]
{a}.topk(2, {d})[0]
{a}.cumsum({d})
{a}.cumprod({d})
{a}.logcumsumexp({d})
{a}.cummax({d})[0]
{a}.diff(dim={d})
{a}.gather({d}, {b}.argsort({d}))
{a}.gather(1, D['where'])
{a}.gather({d}, D['where'])
{a}.gather(1, D['label'][:, None])
torch.take_along_dim({a}, {b}.argsort({d}), {d})
{a}.index_select({d}, torch.tensor([1, 0]))
{a}.index_select({d}, D['order'])
{a}[D['order']]
{a}[:, D['order']]
{a}[D['label']]
{a}[torch.arange(n), D['label']]
{a}[torch.arange(n), D['label'] % {a}.shape[1]]
{a}[torch.arange(len({a})), {a}.detach().argmax(1)]
{a}[:, [1, 0]]
{a}[[1, 0]]
{a}[D['every']]
{a} * D['every'].double().reshape(-1, *[1] * ({a}.ndim - 1))
{a} * D['keep'].double().reshape(-1, *[1] * ({a}.ndim - 1))
{a}.masked_fill(D['holes'], 0.3)
torch.where(D['holes'], {a}, {b})
torch.where(D['keep'][:, None], {a}, {b})
torch.where(D['every'][:, None], {a}, {b})
{a}.scatter({d}, D['label'][:, None], 0.5)
{a}.scatter_add({d}, D['where'], {b})
{a}.scatter(1, {b}.argsort(1), {a})
{a}.index_add({d}, torch.tensor([0, 1]), {b}.narrow({d}, 0, 2))
{a}.index_add(0, D['order'], {b})
{a}.index_copy({d}, torch.tensor([0]), {b}.narrow({d}, 0, 1))
torch.zeros_like({a}).index_add(0, D['order'], {a})
torch.slice_scatter({a}, {b}.narrow({d}, 0, 1), {d}, 0, 1)
torch.select_scatter({a}, {b}.select({d}, 0), {d}, 1)
{a}.index_put((torch.arange(n), D['label']), {b}[:, 0])
{a}.triu()
{a} * {b}.argmax({d}, keepdim=True).double()
{a} * ({b} > {b}.mean({d}, keepdim=True))
F.one_hot({a}.detach().argmax(-1), {a}.shape[-1]).double() * {b}
{a}.masked_fill({a} < {a}.detach().amax({d}, keepdim=True), 0.1)
""",
    "routed": """
{a}[torch.where({b}.flatten(1)[:, 0] > 0)[0]]
net.lin({a}[D['order']])
net.lin({a}[D['order']])[D['order'].argsort()]
{a}[D['where'].flatten()]
net.ln({a}[D['label'] % len({a})]).tanh()
torch.zeros_like({a}).index_add(0, D['order'], net.lin({a}[D['order']]))
{a}.index_add(0, D['label'], {b}[D['label']])
{a}.new_zeros(n, *{a}.shape[1:]).index_add(0, torch.arange(n).repeat_interleave(2), {a}.repeat_interleave(2, 0))
torch.cat([{a}, {b}])[torch.arange(2 * len({a})).view(2, -1).t().flatten()]
{a}.index_add(0, torch.where({b}[..., 0] > 0)[0], net.lin({a}[torch.where({b}[..., 0] > 0)]))
routed({a}, {b}[..., 0] > 0, net.lin)
routed({a}, {b}.flatten(1)[:, 0] > 0.1, lambda t: net.lin2(net.lin(t).tanh()) * net.v)
routed({a}, {b}.flatten(1)[:, -1] > 0, lambda t: t @ net.w + net.lin(t))
routed({a}, {b}.flatten(1).sum(1) > 0, lambda t: t + t[:1])
routed({a}, {b}.flatten(1).sum(1) > 0, lambda t: net.lin(t) * len(t))
routed({a}, {b}.flatten(1).sum(1) > 0, lambda t: net.lin(t) + {b}[: t.size(0)])
routed({a}, {b} > {b}.mean(0), net.lin)
sum(routed({a}, {b}.flatten(1)[:, i] > 0, e) for i, e in enumerate((net.lin, net.lin2)))
torch.zeros_like({a}).index_add(0, torch.where({b}[..., 0] > 0)[0].flip(0), {a}[torch.where({b}[..., 0] > 0)[0]])
""",
    "experts": """
expert_linear({a}, {b}.argmax(-1), net.c)
expert_linear({a}, ({a} @ net.w).argmax(-1), net.c).tanh()
expert_linear({a}, ({b} @ net.w).argmax(-1) + 1, net.c)
expert_linear({a}, ({a} @ net.w).argmax(-1), torch.stack([net.w, net.w.mT]))
expert_linear({a}, ({a} @ net.w)[..., 0].long().abs() % 3, net.c)
expert_linear({a}, ({b} @ net.w).argmax(-1).mT, net.c)
expert_linear({a}, ({a} @ net.w).argmax(-1).flip(0), net.c)
expert_linear({a}, D['tokens'], net.c)
expert_linear({a}, D['label'], net.c) + {a} @ net.c[0]
expert_linear({a}, D['order'] % 2, net.c)
expert_linear({a}[D['order']], ({a} @ net.w).argmax(-1), net.c)
expert_linear({a}.unsqueeze(-2).expand(*{a}.shape[:-1], 2, -1), ({a} @ net.w).topk(2, -1).indices, net.c).sum(-2)
""",
    "reduction": """
{a}.sum({d})
{a}.mean({d})
{a}.mean({d}, keepdim=True)
{a}.sum({d}, keepdim=True) * {a}
{a}.amax({d})
{a}.max({d})[0]
{a}.min({d}, keepdim=True)[0]
{a}.logsumexp({d})
{a}.softmax({d})
{a}.log_softmax({d})
{a} - {a}.mean({d}, keepdim=True)
{a}.var({d}, keepdim=True)
{a}.prod({d})
{a}.median({d})[0]
{a}.norm(dim={d})
{a}.flatten(1).sum(1)
torch.trapezoid({a}, dim={d})
torch.fft.rfft({a}, dim={d}).abs()
{a}.mean()
{a}.sum() * {a}
{a} - {a}.detach().mean({d})
{a} + 0 * {a}.sum()
({a} * {b}).sum({d})
F.cosine_similarity({a}, {b}, {d})
""",
    "product": """
{a} @ {b}
{a} @ {b}.mT
{a}.mT @ {b}
torch.bmm({a}, {b})
torch.bmm({a}, {b}.mT)
torch.einsum('bi,bj->bij', {a}, {b})
torch.einsum('bi,bi->b', {a}, {b})
torch.einsum('bi,ci->bc', {a}, {b})
torch.einsum('btc,bsc->bts', {a}, {b})
torch.einsum('btc,btd->bcd', {a}, {b})
torch.einsum('tbc,tbd->bcd', {a}, {b})
torch.einsum('bij,bj->bi', {a}, {b})
torch.einsum('ij,ij->i', {a}, {b})
torch.einsum('ij,ij->j', {a}, {b})
torch.baddbmm({a}, {b}, {b}.mT)
torch.cdist({a}, {b})
torch.kron({a}, {b})
torch.tensordot({a}, net.w, ([-1], [0]))
torch.tensordot({a}, {b}, ([{d}], [{e}]))
torch.linalg.solve(5 * torch.eye({a}.shape[-1]) + {a} @ {a}.mT, {b})
torch.cross({a}[..., :3], {b}[..., :3], dim=-1)
torch.vmap(torch.dot)({a}, {b})
torch.vmap(torch.outer)({a}, {b})
torch.vmap(lambda t: t.tanh() * t.sum())({a})
""",
    "other": """
Cube.apply({a})
Cube.apply({a} @ net.w)
Centered.apply({a})
Clipped.apply({a})
net.bag(D['tokens'])
net.sums(D['tokens'])
net.many(D['tokens']) + F.linear({a}, net.many.weight) @ net.many.weight
F.embedding(D['tokens'], net.emb.weight * net.s, 1)
net.many(torch.arange({a}.shape[1]).expand(n, -1)) + {a}
checkpoint(lambda t: net.lin(t).tanh(), {a}, use_reentrant=False)
checkpoint(net.inplace, {a}, use_reentrant=False)
checkpoint(lambda t: net.lin(t).tanh(), {a}, use_reentrant=True)
checkpoint(lambda t: (t @ net.w).tanh(), {a}, use_reentrant=False)
checkpoint(lambda t: F.dropout(net.lin(t), 0.3), {a}, use_reentrant=False)
{a} + net.mean
{a} * (1 + net.count)
{a} - net.mean.detach()
{a} @ net.queue.t()
torch.zeros_like({a})
torch.zeros(n, {a}.shape[-1])
torch.empty_like({a}).copy_({a})
{a}.new_zeros({a}.shape)
{a}.to(torch.float64)
torch.cat([net.lin(t) for t in {a}.split(2)])
torch.stack([net.lin(t) for t in {a}])
torch.cat([net.lin({a}[:1]), net.lin2({a}[1:])])
torch.cat([net.lin({a}[:, :1]), net.lin2({a}[:, 1:])], 1)
torch.where(D['label'][:, None] == 0, net.lin({a}), net.lin2({a}))
net.lin({a}) if step % 2 == 0 else net.lin2({a})
net.lin({a}) * (step >= 1) + {a}
F.embedding(D['label'], net.w)
F.embedding(D['tokens'], net.emb.weight * net.s)
F.embedding({a}.detach().argmax(-1), net.w)
F.embedding_bag(D['tokens'], net.emb.weight, mode='max')
""",
}

#: Statements that write to what is there.
IN_PLACE = """
{a} += {b}
{a} *= {b}
{a} += net.v
{a} -= net.u
{a}[:, 0] = net.v
{a}[:, {i}] += net.v
{a}.select({d}, {i}).mul_(net.s)
{a} *= net.s
{a}.add_({b})
{a}.mul_({b})
{a}.tanh_()
{a}.relu_()
F.relu({a}, inplace=True)
F.dropout({a}, 0.3, inplace=True)
{a}.masked_fill_(D['holes'], 0.3)
{a}[:, {i}] = {b}[:, 0]
{a}[..., {i}] = 0.5
{a}[{i}] = 0.5
{a}[..., 0] *= {b}[..., 1]
{a}[:, 1:] += {a}[:, :-1].clone()
{a}[1:] = {b}[:-1]
{a}[..., 1:] = {b}[..., :-1]
{a}[:] = {b}
{a}.copy_({b})
{a}.mT.copy_({b}.mT)
{a}.select({d}, {i}).add_({b}.select({d}, 0))
{a}.narrow({d}, 0, 1).mul_(0.5)
{a}.chunk(2, {d})[1].mul_({b}.chunk(2, {d})[0])
{a}.unbind({d})[0].add_(1)
{a}.index_add_({d}, torch.tensor([0, 1]), {b}.narrow({d}, 0, 2))
{a}.index_copy_({d}, torch.tensor([0]), {b}.narrow({d}, 1, 1))
{a}.scatter_(1, D['label'][:, None], {b})
{a}[torch.arange(n), D['label']] = 0.3
{a}[D['every']] *= 0.5
{a}[D['keep']] = 0.1
{a}[D['order']] = {b}
{a}.transpose_({d}, {e})
{a}.unsqueeze_({d})
{a}.lerp_({b}, 0.4)
{a}.addcmul_({b}, {b})
{a}.fill_diagonal_(0.1)
{a}.sub_({b}.mean({d}, keepdim=True))
{a}.data.mul_(0.5)
{a}.detach().mul_(0.5)
torch.mul({a}.detach(), 2, out=net.mean)
net.count += 1
net.mean.mul_(0.9).add_(0.1 * D['x'].mean(0))
net.mean.copy_({a}.detach().flatten(0, -2).mean(0))
net.queue.copy_(net.queue.roll(1, 0))
net.queue[0] = D['x'][0]
net.queue[0] = {a}.detach()[0]
"""

#: Run before each step.
BETWEEN = (
    "net.late.requires_grad_(step >= 1)",
    "net.lin.requires_grad_(step != 1)",
    "net.lin.weight.requires_grad_(step >= 1)",
    "net.w.requires_grad_(step >= 2)",
    "net.emb.requires_grad_(step >= 1)",
    "net.ln.requires_grad_(step != 2)",
    "net.train(step != 1)",
    "net.mha.requires_grad_(step % 2 == 0)",
    "net.lin.bias.requires_grad_(False)",
    "net.v.requires_grad_(step >= 1)",
)

#: Losses of examples first, (examples, K); ``t`` of what was made.
OF_CLASSES = (
    "F.cross_entropy({t}, D['label'] % {t}.shape[1], reduction='none')",
    "-{t}.log_softmax(1)[torch.arange(n), D['label'] % {t}.shape[1]]",
    "-{t}.log_softmax(1).gather(1, D['label'][:, None] % {t}.shape[1]).squeeze(1)",
    "F.multi_margin_loss({t}, D['label'] % {t}.shape[1], reduction='none')",
    "F.binary_cross_entropy_with_logits({t}, F.one_hot(D['label'] % {t}.shape[1], {t}.shape[1]).double(), "
    "reduction='none').mean(1)",
    "F.nll_loss({t}.log_softmax(1), D['label'] % {t}.shape[1], reduction='none')",
    "({t}.logsumexp(1) - {t}[:, 0])",
)

#: ``{l}`` is a loss of each example.
WEIGHTED = (
    "{l}", "{l}", "{l}", "{l}",
    "D['weight'] * ({l})",
    "D['keep'] * ({l})",
    "({l}) * (D['difficulty'] < step)",
    "({l}) * (step >= 1)",
    "({l}) * (step % 2 == 0)",
    "(step >= 2) * ({l})",
    "D['every'] * ({l})",
    "({l}) / len(D['x'])",
    "({l}).square()",
)  # fmt: skip

#: Others, of (examples, K).
OF_NUMBERS = ("sin().sum(1)", "square().mean(1)", "logsumexp(1)", "norm(dim=1)")
